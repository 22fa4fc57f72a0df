"""The wire format's names and defaults, whatever the broker: an envelope as headers and back.

docs/PROTOCOL.md is the same in prose. A header that equals its default is left out; one that this
version does not know is kept in `Envelope.extra` and passed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec

from taskyard.shared.envelope import Parking
from taskyard.shared.outcomes import ErrorInfo
from taskyard.shared.priority import HIGHEST, LOWEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskyard.shared.envelope import Envelope

VERSION: Final = 1

# ---------------------------------------------------------------- names

V: Final = "ty-v"
TASK: Final = "ty-task"
QUEUE: Final = "ty-queue"
ATTEMPT: Final = "ty-attempt"
DELIVERIES: Final = "ty-deliveries"
ENQUEUED: Final = "ty-enqueued"
NOT_BEFORE: Final = "ty-not-before"
EXPIRES: Final = "ty-expires"
TTR: Final = "ty-ttr"
CONTEXT: Final = "ty-context"
PARENT: Final = "ty-parent"
NAME: Final = "ty-name"
#: `host:pid` of the process that sent a job first; whoever publishes it again keeps it.
FROM: Final = "ty-from"
GENERATION: Final = "ty-generation"
BASE: Final = "ty-base"
RETRY: Final = "ty-retry"
REPLY: Final = "ty-reply"
TRACEPARENT: Final = "traceparent"

PARK_REASON: Final = "ty-park-reason"
PARK_AT: Final = "ty-park-at"
PARK_DETAIL: Final = "ty-park-detail"
PARK_ERROR: Final = "ty-park-error"
PARK_WORKER: Final = "ty-park-worker"
#: The job's own priority, where a parking lot that orders by priority needs one for all.
PARK_PRIORITY: Final = "ty-park-priority"

#: What an operator did to a parked job: carried as headers that nobody on the way needs to read.
RELEASED: Final = "ty-released"
EDITED: Final = "ty-edited"
#: When an operator had a job that was over run again: earlier cancels are void from then on.
RESTARTED: Final = "ty-restarted"
#: The last change of a job that had not started: who, when, and the token of the change.
CHANGED: Final = "ty-changed"
#: When a job was published anew, with a higher generation, by who found it missing on the broker.
REPUBLISHED: Final = "ty-republished"
#: The address in `ty-reply` that belongs to whoever watches a release, not to the job's sender.
WATCH: Final = "ty-watch"

#: Encrypted arguments: the content type, and the headers that name key and nonce. A single value
#: that is encrypted inside a JSON body is an object of both, and of its data.
ENCRYPTED: Final = "application/vnd.taskyard.encrypted"
ENC_KEY: Final = "ty-enc"
ENC_NONCE: Final = "ty-enc-nonce"
ENC_DATA: Final = "ty-enc-data"

#: What a broker adds or acts upon: never published again (`x-death` of a job that passes the same
#: queue twice makes RabbitMQ before 4.0 drop it; `CC` would multiply the job).
_BROKERS_OWN: Final = frozenset({"x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"})
_BROKERS_OWN_PREFIXES: Final = ("x-first-death-", "x-last-death-")

_error_encoder: Final = msgspec.json.Encoder()
_error_decoder: Final = msgspec.json.Decoder(ErrorInfo)


# ---------------------------------------------------------------- envelope to headers


def encode_headers(envelope: Envelope) -> dict[str, object]:
    """Return the headers that carry what a broker's own properties do not, but for `FROM`.

    That is one text for all that a process sends: an adapter writes it in its own, cheaper way.
    """
    headers: dict[str, object] = dict(envelope.extra) if envelope.extra else {}
    if envelope.enqueued_ms is not None:
        headers[ENQUEUED] = envelope.enqueued_ms
    if envelope.attempt != 1:
        headers[ATTEMPT] = envelope.attempt
    if envelope.deliveries != 1:
        headers[DELIVERIES] = envelope.deliveries
    if envelope.not_before_ms is not None:
        headers[NOT_BEFORE] = envelope.not_before_ms
    if envelope.context is not None:
        headers[CONTEXT] = envelope.context
    if envelope.traceparent is not None:
        headers[TRACEPARENT] = envelope.traceparent
    if envelope.parent is not None:
        headers[PARENT] = envelope.parent
    if envelope.reply:
        headers[REPLY] = list(envelope.reply)
    _encode_rare(envelope, headers)
    if envelope.parking is not None:
        _encode_parking(envelope.parking, headers)
    return headers


def _encode_rare(envelope: Envelope, headers: dict[str, object]) -> None:
    if envelope.name is not None:
        headers[NAME] = envelope.name
    if envelope.ttr_ms is not None:
        headers[TTR] = envelope.ttr_ms
    if envelope.expires_ms is not None:
        headers[EXPIRES] = envelope.expires_ms
    if envelope.retry is not None:
        headers[RETRY] = envelope.retry
    if envelope.generation != 1:
        headers[GENERATION] = envelope.generation
    if envelope.base != 0:
        headers[BASE] = envelope.base
    if envelope.enc_key is not None:
        headers[ENC_KEY] = envelope.enc_key
    if envelope.enc_nonce is not None:
        headers[ENC_NONCE] = envelope.enc_nonce


def _encode_parking(parking: Parking, headers: dict[str, object]) -> None:
    headers[PARK_REASON] = parking.reason
    headers[PARK_AT] = parking.at_ms
    if parking.detail:
        headers[PARK_DETAIL] = parking.detail
    if parking.error is not None:
        headers[PARK_ERROR] = _error_encoder.encode(parking.error).decode()
    if parking.worker:
        headers[PARK_WORKER] = parking.worker


# ---------------------------------------------------------------- headers to envelope


def decode_headers(
    headers: Mapping[str, object], fields: dict[str, object]
) -> tuple[str | None, str | None]:
    """Read headers into an envelope's fields.

    Args:
        headers: as they came, of any origin; nothing in them can make this fail.
        fields: receives arguments of `Envelope`, among them `extra` and `parking`.

    Returns:
        the header that names the task or None; and what is wrong, in words, or None.

    """
    extra: dict[str, object] = {}
    parking: dict[str, object] = {}
    task: str | None = None
    defect: str | None = None
    for name, value in headers.items():
        known = _READERS.get(name)
        if known is None:
            if name not in _BROKERS_OWN and not str(name).startswith(_BROKERS_OWN_PREFIXES):
                extra[name] = value
            continue
        into, field, read = known
        try:
            read_value = read(value)
        except (ValueError, TypeError, RecursionError):
            shown = repr(value)[:60]
            defect = defect or f"header {name} is {shown}, not {_EXPECTED[read]}"
            continue
        if into is _ENVELOPE:
            fields[field] = read_value
        elif into is _TASK:
            task = str(read_value)
        elif into is _PARKING:
            parking[field] = read_value
    if extra:
        fields["extra"] = extra
    if "reason" in parking:
        fields["parking"] = Parking(**parking)  # type: ignore[arg-type]
    return task, defect


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)  # from clients that send text only
    raise TypeError


def _instant(value: object) -> int:
    number = _integer(value)
    if not 0 <= number < 1 << 53:
        raise ValueError
    return number


def _count(value: object) -> int:
    number = _integer(value)
    if not 1 <= number < 1 << 31:
        raise ValueError
    return number


def _natural(value: object) -> int:
    number = _integer(value)
    if not 0 <= number < 1 << 31:
        raise ValueError
    return number


def _level(value: object) -> int:
    number = _integer(value)
    if not LOWEST <= number <= HIGHEST:
        raise ValueError
    return number


def _addresses(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise TypeError
    return tuple(_text(item) for item in cast("list[object]", value))


def _version(value: object) -> None:
    if _integer(value) != VERSION:
        raise ValueError


def _error(value: object) -> ErrorInfo | None:
    """Read a parked job's error; one that cannot be read is no reason to lose the job."""
    try:
        return _error_decoder.decode(_text(value))
    except (ValueError, TypeError, RecursionError):
        return None


_EXPECTED: Final[dict[Callable[[object], object], str]] = {
    _text: "text",
    _instant: "milliseconds (a number that is not negative)",
    _count: "a number from 1",
    _natural: "a number from 0",
    _level: f"a number from {LOWEST} to {HIGHEST}",
    _addresses: "a list of addresses",
    _version: f"version {VERSION}, the one that this program reads",
}

#: Where a header's value goes.
_ENVELOPE, _TASK, _PARKING, _NOWHERE = "envelope", "task", "parking", "nowhere"

_FIELDS: Final[dict[str, tuple[str, Callable[[object], object]]]] = {
    V: ("", _version),
    TASK: ("task", _text),
    QUEUE: ("queue", _text),
    ATTEMPT: ("attempt", _count),
    DELIVERIES: ("deliveries", _count),
    ENQUEUED: ("enqueued_ms", _instant),
    NOT_BEFORE: ("not_before_ms", _instant),
    EXPIRES: ("expires_ms", _instant),
    TTR: ("ttr_ms", _instant),
    CONTEXT: ("context", _text),
    PARENT: ("parent", _text),
    NAME: ("name", _text),
    FROM: ("submitted_from", _text),
    GENERATION: ("generation", _count),
    BASE: ("base", _natural),
    RETRY: ("retry", _text),
    REPLY: ("reply", _addresses),
    TRACEPARENT: ("traceparent", _text),
    ENC_KEY: ("enc_key", _text),
    ENC_NONCE: ("enc_nonce", _text),
    PARK_REASON: ("park_reason", _text),
    PARK_AT: ("park_at_ms", _instant),
    PARK_DETAIL: ("park_detail", _text),
    PARK_ERROR: ("park_error", _error),
    PARK_WORKER: ("park_worker", _text),
    PARK_PRIORITY: ("priority", _level),
}


def _into(field: str) -> tuple[str, str]:
    if field == "task":
        return _TASK, field
    if field.startswith("park_"):
        return _PARKING, field.removeprefix("park_")
    return (_ENVELOPE if field else _NOWHERE), field


_READERS: Final = {name: (*_into(field), read) for name, (field, read) in _FIELDS.items()}
