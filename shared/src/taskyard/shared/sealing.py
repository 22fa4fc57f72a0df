"""Arguments as ciphertext: a whole body, or single values inside one.

Both are bound to their job: what was sealed for one job, task or argument opens for no other.
docs/PROTOCOL.md has the form in prose.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import ConfigurationError, Undecryptable
from taskyard.shared.keyring import VARIABLE, Box, Unopened
from taskyard.shared.logs import get_logger
from taskyard.shared.secret import Secret
from taskyard.shared.wire import ENC_DATA, ENC_KEY, ENC_NONCE, ENCRYPTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.keyring import KeyRing

_log = get_logger(__name__)

#: What a sealed value's text contains whatever its key.
_MARK: Final = f'"{ENC_KEY}'.encode()

_raw_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any_object: Final = msgspec.json.Decoder(dict[str, Any])

# ---------------------------------------------------------------- sealing


def seal(
    envelope: Envelope, secrets: Mapping[str, Secret[bytes]], keys: KeyRing, *, whole: bool
) -> Envelope:
    """Return a job with its secrets sealed.

    Args:
        envelope: as it would travel in the clear, with null where its secrets belong.
        secrets: JSON of the secret arguments, by name.
        keys: the first one seals.
        whole: encrypt the whole body, names of arguments included.

    Raises:
        ConfigurationError: there is no key, or the job's id or an argument's name has a line
            break.

    """
    if not keys:
        msg = (
            f"{VARIABLE} is not set, and job {envelope.id} ({envelope.task}) has arguments to "
            "encrypt; nothing was sent; `taskyard keys new` makes a key"
        )
        raise ConfigurationError(msg)
    try:
        body = _with_sealed(envelope, secrets, keys) if secrets else envelope.body
        if not whole:
            return msgspec.structs.replace(envelope, body=body)
        box = keys.seal(body, associated(envelope))
    except Unopened as error:
        msg = f"job {envelope.id!r} ({envelope.task}) cannot be encrypted: {error}"
        raise ConfigurationError(msg) from None
    return msgspec.structs.replace(
        envelope,
        body=box.data,
        content_type=ENCRYPTED,
        enc_key=box.key,
        enc_nonce=base64.b64encode(box.nonce).decode(),
    )


def associated(envelope: Envelope, argument: str | None = None) -> bytes:
    """Return what a ciphertext is bound to: job id, full task name, and the argument if it is one.

    Raises:
        Unopened: a line break in one of them would make two of these alike.

    """
    parts = (envelope.id, envelope.task, *(() if argument is None else (argument,)))
    if any("\n" in part for part in parts):
        raise Unopened("the job's id, its task or the argument's name has a line break")
    return "\n".join(parts).encode()


def _with_sealed(envelope: Envelope, secrets: Mapping[str, Secret[bytes]], keys: KeyRing) -> bytes:
    values: dict[str, object] = dict(_raw_object.decode(envelope.body))
    for name, secret in secrets.items():
        box = keys.seal(secret.reveal(), associated(envelope, name))
        values[name] = {
            ENC_KEY: box.key,
            ENC_NONCE: base64.b64encode(box.nonce).decode(),
            ENC_DATA: base64.b64encode(box.data).decode(),
        }
    return msgspec.json.encode(values)


# ---------------------------------------------------------------- opening


def open_body(envelope: Envelope, keys: KeyRing) -> bytes:
    """Return a job's body as JSON; single values inside it stay sealed.

    Raises:
        Undecryptable: it cannot be decrypted here.

    """
    if envelope.content_type != ENCRYPTED:
        return envelope.body
    try:
        nonce = _bytes(envelope.enc_nonce)
        box = Box(envelope.enc_key or "", nonce, envelope.body)
        return keys.open(box, associated(envelope))
    except Unopened as error:
        problem = str(error)
    raise _undecryptable(envelope, "its arguments", problem)


def open_value(raw: bytes, envelope: Envelope, argument: str, keys: KeyRing) -> bytes:
    """Return the JSON of a secret argument.

    One that came in the clear is taken as it is, with a warning: the sender has to be mended, and
    to park the job would only keep the value.

    Raises:
        Undecryptable: it cannot be decrypted here.

    """
    found = _sealed(raw)
    if found is None:
        if envelope.content_type != ENCRYPTED and raw != b"null":
            _log.warning(
                "a secret argument came in the clear; mend its sender",
                job_id=envelope.id,
                task=envelope.task,
                argument=argument,
                app=envelope.app,
            )
        return raw
    try:
        return keys.open(_box(found), associated(envelope, argument))
    except Unopened as error:
        problem = str(error)
    raise _undecryptable(envelope, f"its argument {argument}", problem)


def revealed(envelope: Envelope, keys: KeyRing) -> dict[str, object]:
    """Return a job's arguments as plain JSON values, each sealed one as a `Secret`.

    Raises:
        Undecryptable: they cannot be decrypted here.

    """
    body = open_body(envelope, keys)
    if _MARK not in body:
        return _any_object.decode(body)
    found: dict[str, object] = {}
    for name, raw in _raw_object.decode(body).items():
        text = bytes(raw)
        value = text if _sealed(text) is None else open_value(text, envelope, name, keys)
        plain: object = msgspec.json.decode(value)
        found[name] = plain if value is text else Secret(plain)
    return found


# ---------------------------------------------------------------- showing


def sealed_arguments(envelope: Envelope) -> frozenset[str]:
    """Return which arguments of a body that is not itself encrypted are."""
    if _MARK not in envelope.body or envelope.content_type == ENCRYPTED:
        return frozenset()
    try:
        values = _raw_object.decode(envelope.body)
    except UNREADABLE:
        return frozenset()
    return frozenset(name for name, raw in values.items() if _sealed(bytes(raw)) is not None)


def shown(envelope: Envelope) -> object:
    """Return a job's arguments for people: plain JSON, with words where something is encrypted."""
    if envelope.content_type == ENCRYPTED:
        return _words(envelope.enc_key)
    try:
        if _MARK not in envelope.body:
            return msgspec.json.decode(envelope.body)
        found: dict[str, object] = {}
        for name, raw in _raw_object.decode(envelope.body).items():
            sealed = _sealed(bytes(raw))
            found[name] = (
                msgspec.json.decode(raw) if sealed is None else _words(sealed.get(ENC_KEY))
            )
    except UNREADABLE:
        return f"{len(envelope.body)} bytes that cannot be read as JSON"
    return found


def _words(key: object) -> str:
    return f"‹encrypted with key {str(key)[:64]}›"


# ---------------------------------------------------------------- the form of a sealed value


def _sealed(raw: bytes) -> dict[str, Any] | None:
    """Return a sealed value's fields; what has but one of them is a damaged one, and no plain value."""
    if _MARK not in raw or not raw.startswith(b"{"):
        return None
    try:
        found = _any_object.decode(raw)
    except UNREADABLE:
        return None
    return found if found.keys() & {ENC_KEY, ENC_NONCE, ENC_DATA} else None


def _box(found: Mapping[str, Any]) -> Box:
    return Box(str(found.get(ENC_KEY)), _bytes(found.get(ENC_NONCE)), _bytes(found.get(ENC_DATA)))


def _bytes(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Unopened("its nonce or data is missing, or not base64")


def _undecryptable(envelope: Envelope, what: str, problem: str) -> Undecryptable:
    return Undecryptable(
        envelope.id,
        f"{what} cannot be decrypted: {problem}; when its key is in {VARIABLE} and the workers are "
        "started again, release the job",
    )
