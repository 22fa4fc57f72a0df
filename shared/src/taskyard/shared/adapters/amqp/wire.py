"""An envelope as an AMQP message, and back.

It runs per job, so it is lean; and on messages of any origin, so reading never fails.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared import wire
from taskyard.shared.adapters.amqp.fields import (
    SHORT_MAX,
    intern_header,
    write_short,
    write_table,
    write_text_field,
)
from taskyard.shared.broker import Delivery
from taskyard.shared.envelope import JSON, Envelope, mint_id
from taskyard.shared.priority import HIGHEST, NORMAL

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How often earlier hand-overs failed, on quorum queues that count just that (4.3 and later).
_FAILURES: Final = "x-delivery-count"
#: How often it was handed over before, whatever came of it.
_HAND_OVERS: Final = "x-acquired-count"

#: Characters that fit into a short text whatever they are.
_SURELY_SHORT: Final = SHORT_MAX // 4

_FLAGS: Final = 0x8000 | 0x2000 | 0x1000 | 0x0800 | 0x0400 | 0x0080 | 0x0040
_TYPE: Final = 0x0020
_APP: Final = 0x0008
_U16: Final = Struct(">H")
_U64: Final = Struct(">Q")
_MODE_AND_PRIORITY: Final = tuple(bytes((2, priority)) for priority in range(HIGHEST + 1))

_often = lru_cache(maxsize=1024)(write_short)
_often_field = lru_cache(maxsize=1024)(write_text_field)

for _name in (wire.ENQUEUED, wire.NOT_BEFORE, wire.ATTEMPT, wire.CONTEXT, wire.TRACEPARENT):
    intern_header(_name)
for _name in (wire.DELIVERIES, wire.PARENT, wire.REPLY, wire.QUEUE, wire.TTR, wire.EXPIRES):
    intern_header(_name)


def encode(envelope: Envelope, message_id: str, now_ms: int, *, with_queue: bool = False) -> bytes:
    """Return an envelope's properties, as they go into a content header.

    Args:
        envelope: the job.
        message_id: of this publish, unique.
        now_ms: for the property `timestamp`.
        with_queue: name the queue too, where the routing key does not say it alone.

    Raises:
        ValueError: something in it does not fit into AMQP's types.

    """
    headers = wire.encode_headers(envelope)
    if with_queue:
        headers[wire.QUEUE] = envelope.queue
    priority, origin = envelope.priority, envelope.submitted_from
    if envelope.parking is not None and priority != NORMAL:
        # From 4.3 on a quorum queue orders by priority; a parking lot keeps the order of parking.
        headers[wire.PARK_PRIORITY], priority = priority, NORMAL
    task, app = envelope.task, envelope.app
    return b"".join(
        (
            _U16.pack(_FLAGS | (_TYPE if task else 0) | (_APP if app is not None else 0)),
            _often(envelope.content_type),
            write_table(headers, b"" if origin is None else _often_field(wire.FROM, origin)),
            _MODE_AND_PRIORITY[priority],
            write_short(envelope.id),
            write_short(message_id),
            _U64.pack(now_ms // 1000),
            _often(task) if task else b"",
            _often(app) if app is not None else b"",
        )
    )


def decode(
    properties: Any,
    body: bytes,
    *,
    queue: str | None = None,
    redelivered: bool = False,
    counted: bool = False,
    token: object = None,
) -> Delivery:
    """Read a message of any origin; whatever is wrong with it becomes the delivery's `defect`.

    Args:
        properties: as `fields.Properties` (or pika's), or None when they cannot be read.
        body: the arguments, left as they are.
        queue: where it was found; None takes the header's word.
        redelivered: what the broker said.
        counted: whether the queue counts failed hand-overs exactly.
        token: for the delivery.

    """
    if properties is None:
        return Delivery(
            envelope=Envelope(id=mint_id(), queue=queue or "", task="", body=body),
            redelivered=redelivered,
            anonymous=True,
            defect="the message's properties cannot be read",
            token=token,
        )
    fields: dict[str, Any] = {"queue": ""}
    headers = properties.headers
    task, defect = wire.decode_headers(headers, fields) if headers else (None, None)
    kind = properties.type
    if kind:
        task = kind
    if task and len(task) > _SURELY_SHORT and len(task.encode()) > SHORT_MAX:
        task, defect = _cut(task), defect or f"the task's name is longer than {SHORT_MAX} bytes"
    if not task:
        defect = defect or f"no task is named (property type, or header {wire.TASK})"
    encoding = properties.content_encoding
    if encoding:
        defect = defect or f"the content encoding {encoding!r} is not read"
    if queue is not None:
        fields["queue"] = queue
    job_id, kind, app = properties.correlation_id, properties.content_type, properties.app_id
    if job_id and len(job_id) > _SURELY_SHORT:
        job_id = _cut(job_id)
    priority = fields.pop("priority", properties.priority)
    timestamp = properties.timestamp
    if timestamp is not None and "enqueued_ms" not in fields and timestamp < 1 << 40:
        fields["enqueued_ms"] = timestamp * 1000
    failures = None
    if counted:
        failures = _failures(headers or {}, redelivered=redelivered)
    return Delivery(
        envelope=Envelope(
            id=job_id or mint_id(),
            task=task or "",
            body=body,
            content_type=_cut(kind) if kind and kind != JSON else JSON,
            priority=NORMAL if priority is None else min(priority, HIGHEST),
            app=_cut(app) if app else app,
            message_id=properties.message_id or "",
            **fields,
        ),
        redelivered=redelivered,
        failures=failures,
        anonymous=not job_id,
        defect=defect,
        token=token,
    )


def _failures(headers: Mapping[str, object], *, redelivered: bool) -> int:
    """Return how often earlier hand-overs failed, as a queue says that counts just that.

    What a node had given out when it died comes again flagged, and counted in no way (seen on 4.3): it
    may run a second time, and must say so. What was handed back has its hand-overs counted.
    """
    found = headers.get(_FAILURES)
    if type(found) is int:
        return found
    return int(redelivered and _HAND_OVERS not in headers)


def _cut(text: str) -> str:
    """Cut what grew beyond a short text of AMQP when its invalid UTF-8 was replaced."""
    if len(text) <= _SURELY_SHORT:
        return text
    return text.encode()[:SHORT_MAX].decode(errors="ignore")
