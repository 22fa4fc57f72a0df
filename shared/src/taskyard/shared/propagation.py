"""Values that follow a job from where it was sent to where it runs: tenant, locale, user.

They are captured when a job is sent, travel in the header `ty-context`, and are current again
while its handler runs, there and in every job that it sends.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

#: Longest encoded form, in bytes: it travels in a header of every message.
LIMIT_BYTES: Final = 4096

_EMPTY: Final[Mapping[str, object]] = {}
_values: ContextVar[Mapping[str, object]] = ContextVar("taskyard_values", default=_EMPTY)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, object])


def current_values() -> Mapping[str, object]:
    """Return the values that a job sent now would carry."""
    return _values.get()


@contextmanager
def bind_values(**values: object) -> Generator[None]:
    """Add values to those current, for jobs sent inside the block (JSON values only)."""
    token = _values.set({**_values.get(), **values})
    try:
        yield
    finally:
        _values.reset(token)


@contextmanager
def replace_values(values: Mapping[str, object]) -> Generator[None]:
    """Make exactly `values` current inside the block; used around a handler."""
    token = _values.set(values)
    try:
        yield
    finally:
        _values.reset(token)


def set_values(values: Mapping[str, object]) -> None:
    """Make exactly `values` current in this execution context, for good; see `invoke`."""
    _values.set(values)


def encode_values(values: Mapping[str, object]) -> str | None:
    """Return the header's text, or None for no values.

    Raises:
        ConfigurationError: a value is not JSON, or the text exceeds 4 KiB.

    """
    if not values:
        return None
    try:
        text = _encoder.encode(values)
    except (TypeError, msgspec.EncodeError) as error:
        msg = f"propagated values {sorted(values)} cannot be sent as JSON: {error}"
        raise ConfigurationError(msg) from error
    if len(text) > LIMIT_BYTES:
        msg = (
            f"propagated values {sorted(values)} take {len(text)} bytes, the limit is {LIMIT_BYTES}"
        )
        raise ConfigurationError(msg)
    return text.decode()


def decode_values(text: str | None) -> Mapping[str, object]:
    """Read the header's text; what cannot be read counts as no values."""
    if not text:
        return _EMPTY
    try:
        return _decoder.decode(text)
    except UNREADABLE:
        return _EMPTY
