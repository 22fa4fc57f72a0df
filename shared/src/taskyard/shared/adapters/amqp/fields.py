"""AMQP 0-9-1 field tables and message properties, as bytes.

pika has its own; it costs several times as much per message, ends the connection over a header
field that it does not know, and cannot write back every field that it reads. The tests hold both
against each other.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PERSISTENT: Final = 2
#: Most bytes of a short text.
SHORT_MAX: Final = 255
#: Levels of tables and lists that are read: who nests deeper means to exhaust the stack.
_DEEPEST: Final = 32

_U8: Final = Struct("B")
_U16: Final = Struct(">H")
_U32: Final = Struct(">L")
_I32: Final = Struct(">l")
_U64: Final = Struct(">Q")
_I64: Final = Struct(">q")
_TYPED_I64: Final = Struct(">cq")
_TYPED_U32: Final = Struct(">cL")
_TYPED_F64: Final = Struct(">cd")
_DECIMAL: Final = Struct(">Bl")


class _Values(TypedDict, total=False):
    content_type: str
    content_encoding: str
    headers: Mapping[str, object]
    delivery_mode: int
    priority: int
    correlation_id: str
    reply_to: str
    message_id: str
    timestamp: int
    type: str
    app_id: str


class Properties:
    """The properties of one message; None where absent."""

    # Defaults live in the class: reading sets only what a message has.
    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, object] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    app_id: str | None = None


def properties(**values: Unpack[_Values]) -> Properties:
    """Return properties to publish with; persistent unless they say otherwise."""
    made = Properties()
    made.delivery_mode = _PERSISTENT
    made.__dict__.update(values)
    return made


# ---------------------------------------------------------------- reading


def read_properties(  # noqa: C901, PLR0912, PLR0915  # fourteen fields, in line for speed
    data: bytes, at: int
) -> Properties:
    """Read properties at an offset (ValueError when they are not what AMQP allows)."""
    flags = (data[at] << 8) | data[at + 1]
    at += 2
    found = Properties()
    if flags & 0x8000:
        end = at + 1 + data[at]
        found.content_type, at = str(data[at + 1 : end], "utf-8", "replace"), end
    if flags & 0x4000:
        found.content_encoding, at = read_short(data, at)
    if flags & 0x2000:
        found.headers, at = _read_table(data, at)
    if flags & 0x1000:
        found.delivery_mode = data[at]
        at += 1
    if flags & 0x0800:
        found.priority = data[at]
        at += 1
    if flags & 0x0400:
        end = at + 1 + data[at]
        found.correlation_id, at = str(data[at + 1 : end], "utf-8", "replace"), end
    if flags & 0x0200:
        found.reply_to, at = read_short(data, at)
    if flags & 0x0100:  # expiration: the broker's affair
        at += 1 + data[at]
    if flags & 0x0080:
        end = at + 1 + data[at]
        found.message_id, at = str(data[at + 1 : end], "utf-8", "replace"), end
    if flags & 0x0040:
        found.timestamp = _U64.unpack_from(data, at)[0]
        at += 8
    if flags & 0x0020:
        end = at + 1 + data[at]
        found.type, at = str(data[at + 1 : end], "utf-8", "replace"), end
    if flags & 0x0010:  # user id: who logged in to publish
        at += 1 + data[at]
    if flags & 0x0008:
        end = at + 1 + data[at]
        found.app_id = str(data[at + 1 : end], "utf-8", "replace")
    return found


def read_short(data: bytes, at: int) -> tuple[str, int]:
    """Return the short text at an offset, and the offset behind it."""
    end = at + 1 + data[at]
    return str(data[at + 1 : end], "utf-8", "replace"), end


def _read_table(data: bytes, at: int, depth: int = 0) -> tuple[dict[str, object], int]:
    end = at + 4 + _U32.unpack_from(data, at)[0]
    if end > len(data):
        raise ValueError("a table ends behind its frame")
    at += 4
    table: dict[str, object] = {}
    while at < end:
        stop = at + 1 + data[at]
        name = str(data[at + 1 : stop], "utf-8", "replace")
        kind = data[stop]
        if kind == 0x6C:  # l, as all our numbers
            table[name] = _I64.unpack_from(data, stop + 1)[0]
            at = stop + 9
        elif kind == 0x53:  # S, as all our text
            at = stop + 5 + _U32.unpack_from(data, stop + 1)[0]
            value = data[stop + 5 : at]
            try:  # `_long_text`, in line: each message has some
                table[name] = value.decode()
            except UnicodeDecodeError:
                table[name] = value
        else:
            table[name], at = _read_value(kind, data, stop + 1, depth)
    return table, end


def _long_text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _read_value(kind: int, data: bytes, at: int, depth: int) -> tuple[object, int]:
    fixed = _FIXED.get(kind)
    if fixed is not None:
        layout, convert = fixed
        return convert(*layout.unpack_from(data, at)), at + layout.size
    if depth == _DEEPEST:
        raise ValueError("header fields are nested too deeply")
    if kind == 0x46:  # F
        return _read_table(data, at, depth + 1)
    if kind == 0x56:  # V
        return None, at
    if kind not in b"SxA":
        raise ValueError(f"a header field has the unknown type {kind}")
    end = at + 4 + _U32.unpack_from(data, at)[0]
    if end > len(data):
        raise ValueError("a header field ends behind its frame")
    at += 4
    if kind == 0x53:
        return _long_text(data[at:end]), end
    if kind == 0x78:
        return data[at:end], end
    values: list[object] = []
    while at < end:
        value, at = _read_value(data[at], data, at + 1, depth + 1)
        values.append(value)
    return values, end


def _same(value: Any) -> Any:
    return value


def _moment(seconds: int) -> object:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return seconds


def _decimal(places: int, number: int) -> Decimal:
    return Decimal(number).scaleb(-places)


_FIXED: Final[dict[int, tuple[Struct, Callable[..., object]]]] = {
    ord("t"): (Struct(">?"), _same),
    ord("b"): (Struct(">b"), _same),
    ord("B"): (Struct(">B"), _same),
    ord("s"): (Struct(">h"), _same),
    ord("U"): (Struct(">h"), _same),
    ord("u"): (Struct(">H"), _same),
    ord("I"): (_I32, _same),
    ord("i"): (_U32, _same),
    ord("l"): (_I64, _same),
    ord("L"): (_I64, _same),
    ord("f"): (Struct(">f"), _same),
    ord("d"): (Struct(">d"), _same),
    ord("D"): (_DECIMAL, _decimal),
    ord("T"): (_U64, _moment),
}


# ---------------------------------------------------------------- writing


def write_properties(properties: Any) -> bytes:
    """Return properties as bytes; pika's `BasicProperties` will do as well.

    Raises:
        ValueError: a value does not fit into AMQP's types; the text says which.

    """
    flags = 0
    pieces: list[bytes] = [b""]
    for flag, name, write in _WRITERS:
        value = getattr(properties, name)
        if value is not None:
            flags |= flag
            pieces.append(write(value))
    pieces[0] = _U16.pack(flags)
    return b"".join(pieces)


def write_short(value: str) -> bytes:
    """Return a text of at most 255 bytes (ValueError when it is longer)."""
    data = value.encode()
    if len(data) > SHORT_MAX:
        raise ValueError(f"{value[:40]!r}… has {len(data)} bytes, AMQP allows {SHORT_MAX} here")
    return _U8.pack(len(data)) + data


def write_table(table: Mapping[str, object], ready: bytes = b"") -> bytes:
    """Return headers as bytes, after some that are `ready` (ValueError when one cannot be carried)."""
    pieces = [ready]
    for name, value in table.items():
        key = _KEYS.get(name)
        if key is None:
            key = write_short(str(name))
        if type(value) is int:
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"header {name}: {value} has more than 64 bits")
            pieces.append(key + _TYPED_I64.pack(b"l", value))
        elif type(value) is str:
            data = value.encode()
            pieces.append(key + _TYPED_U32.pack(b"S", len(data)) + data)
        else:
            pieces.append(key + _value(value))
    data = b"".join(pieces)
    return _U32.pack(len(data)) + data


def write_text_field(name: str, value: str) -> bytes:
    """Return one header that is a text as bytes, as `write_table` takes it ready."""
    data = value.encode()
    return write_short(name) + _TYPED_U32.pack(b"S", len(data)) + data


def intern_header(name: str) -> None:
    """Remember the encoded form of a header's name that is written often."""
    _KEYS[name] = write_short(name)


_KEYS: Final[dict[str, bytes]] = {}


def _value(value: object) -> bytes:  # noqa: C901, PLR0911, PLR0912  # one case per type of AMQP
    match value:
        case bool():
            return b"t" + _U8.pack(value)
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{value} has more than 64 bits")
            return _TYPED_I64.pack(b"l", value)
        case str():
            data = value.encode()
            return _TYPED_U32.pack(b"S", len(data)) + data
        case bytes():
            return _TYPED_U32.pack(b"x", len(value)) + value
        case float():
            return _TYPED_F64.pack(b"d", value)
        case None:
            return b"V"
        case datetime():
            return b"T" + _U64.pack(max(0, int(value.timestamp())))
        case Decimal():
            return _write_decimal(value)
        case dict():
            return b"F" + write_table(value)
        case list() | tuple():
            data = b"".join(_value(item) for item in value)
            return _TYPED_U32.pack(b"A", len(data)) + data
        case _:
            raise ValueError(f"a header of type {type(value).__name__} cannot be carried by AMQP")


def _write_decimal(value: Decimal) -> bytes:
    exponent = value.as_tuple().exponent
    places = max(0, -exponent) if isinstance(exponent, int) else 256
    number = int(value.scaleb(places)) if places < 256 else 0
    if places > 255 or not -(1 << 31) <= number < 1 << 31:
        return _value(str(value))
    return b"D" + _DECIMAL.pack(places, number)


_WRITERS: Final[tuple[tuple[int, str, Callable[[Any], bytes]], ...]] = (
    (0x8000, "content_type", write_short),
    (0x4000, "content_encoding", write_short),
    (0x2000, "headers", write_table),
    (0x1000, "delivery_mode", _U8.pack),
    (0x0800, "priority", _U8.pack),
    (0x0400, "correlation_id", write_short),
    (0x0200, "reply_to", write_short),
    (0x0080, "message_id", write_short),
    (0x0040, "timestamp", _U64.pack),
    (0x0020, "type", write_short),
    (0x0008, "app_id", write_short),
)
