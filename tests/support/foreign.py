"""Messages that nobody would send in earnest: bodies, properties and headers drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import pika

#: Headers that mean something to us, and some that must not.
HEADERS = (
    "ty-v", "ty-task", "ty-attempt", "ty-deliveries", "ty-not-before", "ty-enqueued", "ty-ttr",
    "ty-expires", "ty-queue", "ty-context", "ty-parent", "ty-generation", "ty-base", "ty-retry",
    "ty-reply", "ty-key", "ty-nonce", "traceparent", "ty-park-reason", "ty-park-at",
    "ty-park-error", "ty-park-detail", "ty-unknown", "x-death", "x-delivery-count", "",
)  # fmt: skip
TASKS = (
    "ok",
    "default.ok",
    "noop",
    "test",
    "record",
    "hold",
    "fail",
    "nosuch",
    "default.",
    "",
    "ö",
)
TYPES = (
    "application/json",
    "",
    "text/plain",
    "application/vnd.taskyard.encrypted",
    "\x00",
    "ä" * 60,
)


def body(random: Random) -> bytes:
    """Return a body: some are objects, some nearly, most are nothing."""
    kinds: list[Callable[[], bytes]] = [
        lambda: b"{}",
        lambda: b'{"message": "hello"}',
        lambda: b'{"n": %d}' % random.choice([0, -1, 1 << 70, 10**400]),
        lambda: b'{"n": NaN}',
        lambda: b"",
        lambda: b"null",
        lambda: b'[{"n": 1}]',
        lambda: b'{"n": 1}, {"n": 2}',
        lambda: b"[" * random.choice([10, 100_000]),
        lambda: b'{"a":' * random.choice([10, 20_000]) + b"1",
        lambda: b'{"message": "\xff\xfe"}',
        lambda: '{"message": "\ud800"}'.encode("utf-8", "surrogatepass"),
        lambda: random.randbytes(random.choice([1, 16, 4096])),
        lambda: b'{"message": "' + b"x" * 50_000 + b'"}',
    ]
    return random.choice(kinds)()


def value(random: Random, depth: int = 0) -> Any:
    """Return a value of any type that an AMQP table can hold."""
    kinds: list[Callable[[], Any]] = [
        lambda: random.choice([0, 1, -1, 5, 255, 1 << 31, (1 << 63) - 1, -(1 << 63)]),
        lambda: random.choice(["", "1", "-1", "pause", "urgent", "\x00", "ü" * 200, "{}", "[]"]),
        lambda: random.choice([True, False, None]),
        lambda: random.choice([Decimal("1.5"), Decimal(-1)]),
        lambda: datetime.fromtimestamp(random.choice([0, 1, 4_000_000_000]), tz=UTC),
        lambda: random.randbytes(8),
    ]
    if depth < 3:
        kinds += [
            lambda: [value(random, depth + 1) for _ in range(random.randrange(4))],
            lambda: {str(n): value(random, depth + 1) for n in range(random.randrange(4))},
        ]
    return random.choice(kinds)()


def properties(random: Random) -> pika.BasicProperties:
    """Return properties; each that is set may be anything that the wire can carry."""

    def maybe(make: Callable[[], Any]) -> Any:
        return make() if random.random() < 0.5 else None

    names = random.sample(HEADERS, random.randrange(5))
    return pika.BasicProperties(
        content_type=maybe(lambda: random.choice(TYPES)),
        content_encoding=maybe(lambda: random.choice(["utf-8", "gzip", "\x01"])),
        headers=maybe(lambda: {name: value(random) for name in names}),
        delivery_mode=maybe(lambda: random.choice([1, 2])),
        priority=maybe(lambda: random.choice([0, 4, 9, 10, 255])),
        correlation_id=maybe(lambda: random.choice(["", "x", "y" * 255, "\x00", "job"])),
        reply_to=maybe(lambda: "nobody"),
        message_id=maybe(lambda: random.choice(["", "m", "m" * 255])),
        timestamp=maybe(lambda: random.choice([0, 1 << 40])),
        type=maybe(lambda: random.choice(TASKS)),
        app_id=maybe(lambda: "ö" * 100),
    )


#: What a field of a stored envelope may have become: of another kind, out of range, absurd.
VALUES: tuple[Any, ...] = (
    None, -1, 0, 1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 1.5, float("nan"), True, "", "\x00", "nosuch",
    "default", "ä" * 300, "9" * 400, b"", b"\xff", [], [None], ["a", "b", "c"], {}, {"": None},
)  # fmt: skip


def stored(random: Random, blob: bytes) -> bytes:
    """Return what may have become of an envelope on disk: junk, cut, flipped, or with other values."""
    kind = random.randrange(8)
    if kind == 0:
        return random.randbytes(random.choice([0, 1, 40]))
    if kind == 1:
        return blob[: random.randrange(len(blob))]
    if kind == 2:
        at = random.randrange(len(blob))
        return blob[:at] + bytes([blob[at] ^ 1 << random.randrange(8)]) + blob[at + 1 :]
    fields = msgspec.msgpack.decode(blob)
    for _ in range(random.choice([1, 1, 3])):
        fields[random.randrange(len(fields))] = random.choice(VALUES)
    return msgspec.msgpack.encode(fields)
