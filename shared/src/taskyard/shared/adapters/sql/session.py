"""A connection as the transactions see it; lives in the engine's thread, and only there."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from taskyard.shared.adapters.sql import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from taskyard.shared.clock import Clock

Value: TypeAlias = int | str | bytes | None
Row: TypeAlias = tuple[Value, ...]
Parameters: TypeAlias = "Sequence[Value] | Mapping[str, Value]"
#: Named parameters, as a variable is declared.
Named: TypeAlias = dict[str, Value]

#: Most rows that one INSERT carries: 512 rows of 6 columns stay below SQLite's oldest limit on
#: parameters (32 766), and sizes are powers of two so that few statements need preparing.
_CHUNK = 512

#: How the entries of the table `meta` begin that name a queue whose publishes the feed does not get.
LEFT_OUT = "left_out:"

_to_json = msgspec.json.Encoder().encode


def json_list(values: Iterable[int | str]) -> str:
    """Return a list as the one parameter that `JSON_EACH` reads."""
    return _to_json(list(values)).decode()


@lru_cache(maxsize=512)
def _packed(rows: str, numbers: tuple[str, ...], blobs: tuple[str, ...]) -> str:
    return queries.packed(rows, numbers, blobs)


@lru_cache(maxsize=128)
def _values(columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return ", ".join([one] * rows)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What exists, as of one version of the topology.

    Attributes:
        version: raised by each change.
        queues: their row ids, by name.
        control: whether the control log exists.
        feed_limit: bytes that the feed may hold; None: there is no feed.
        left_out: queues whose publishes it does not get.

    """

    version: int
    queues: Mapping[str, int]
    control: bool
    feed_limit: int | None
    left_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows, column by column."""

    numbers: list[list[int]]
    blobs: list[list[bytes]]

    def __len__(self) -> int:
        return len(self.numbers[0])


@dataclass(slots=True)
class Effects:
    """What the transaction under way will have changed once it is committed.

    Attributes:
        topics: what to tell watchers about.
        due: the earliest due instant that it brought, by queue (ms).

    """

    topics: set[str] = field(default_factory=set[str])
    due: dict[str, int] = field(default_factory=dict[str, int])


class Session:
    """Runs statements of one namespace on one connection."""

    def __init__(self, connection: sqlite3.Connection, namespace: str, clock: Clock) -> None:
        """Belong to the thread that opened the connection."""
        self.connection = connection
        self.clock = clock
        self.effects = Effects()
        self._namespace = namespace
        self._texts: dict[str, str] = {}
        self._catalogue: Catalogue | None = None
        self._next_seq: int | None = None
        self._packs = connection.execute(queries.PACKS).fetchone() == (b"\x00\xff",)

    def now_ms(self) -> int:
        """Return the instant that due times are compared with."""
        return self.clock.now_ms()

    def lease_ms(self, ahead_s: float = 0.0) -> int:
        """Return the instant, on the host's monotonic clock, that leases are compared with.

        A wall clock that is set would end every lease at once; all handles are on one host.
        """
        return int((self.clock.monotonic_s() + ahead_s) * 1000)

    # ------------------------------------------------------------ statements

    def run(self, sql: str, parameters: Parameters = ()) -> int:
        """Run a statement and return how many rows it changed."""
        return self.connection.execute(self._text(sql), parameters).rowcount

    def one(self, sql: str, parameters: Parameters = ()) -> Row:
        """Return the one row of a statement that always has one."""
        row: Row = self.connection.execute(self._text(sql), parameters).fetchone()
        return row

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return all rows; for short results, see `queries`."""
        return self.connection.execute(self._text(sql), parameters).fetchall()

    def packed(
        self,
        rows: str,
        parameters: Parameters,
        *,
        numbers: tuple[str, ...],
        blobs: tuple[str, ...] = (),
    ) -> Packed:
        """Return the rows of a statement whose columns are numbers, then blobs, in one step."""
        if not self._packs:  # this SQLite cuts joined blobs at their zero bytes
            return self._unpacked(rows, parameters, len(numbers), len(blobs))
        try:
            row = self.one(_packed(rows, numbers, blobs), parameters)
        except sqlite3.DataError:  # together they are more than one value may hold
            return self._unpacked(rows, parameters, len(numbers), len(blobs))
        lists = [_numbers(value) for value in row[: len(numbers) + len(blobs)]]
        joined = row[len(lists) :]
        return Packed(
            lists[: len(numbers)],
            [_cut(_blob(b), n) for b, n in zip(joined, lists[len(numbers) :], strict=True)],
        )

    def _unpacked(self, sql: str, parameters: Parameters, numbers: int, blobs: int) -> Packed:
        found = self.rows(sql, parameters)
        columns = list(zip(*found, strict=True)) or [()] * (numbers + blobs)
        return Packed(
            [[_number(v) for v in column] for column in columns[:numbers]],
            [[_blob(v) for v in column] for column in columns[numbers:]],
        )

    def insert(self, columns: str, rows: Sequence[Sequence[Value]]) -> None:
        """Insert many rows with few statements."""
        start, left, size = 0, len(rows), _CHUNK
        while left:
            while size > left:
                size >>= 1
            flat = [value for row in rows[start : start + size] for value in row]
            self.run(columns + _values(len(rows[start]), size), flat)
            start, left = start + size, left - size

    def _text(self, sql: str) -> str:
        text = self._texts.get(sql)
        if text is None:
            text = self._texts[sql] = queries.qualify(sql, self._namespace)
        return text

    # ------------------------------------------------------------ transactions

    def begin(self) -> None:
        """Start to write; fails at once when another process is writing."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.effects = Effects()
        self._next_seq = None

    def commit(self) -> None:
        """Make everything since `begin` durable and visible."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.effects = Effects()
        self._catalogue = None

    def catalogue(self) -> Catalogue:
        """Return what exists now."""
        version = _number(self.one(queries.TOPOLOGY_VERSION)[0])
        return self._load(version)

    def seqs(self, count: int) -> tuple[Catalogue, int]:
        """Return what exists and the first of `count` new job numbers."""
        if self._next_seq is None or self._catalogue is None:
            version, last = (_number(value) for value in self.one(queries.PREAMBLE))
            self._load(version)
            self._next_seq = last + 1
        first = self._next_seq
        self._next_seq += count
        return self._load(None), first

    def topology_changed(self) -> None:
        """Make every handle read again what exists."""
        self.run(queries.TOPOLOGY_CHANGED)
        self._catalogue = None

    def _load(self, version: int | None) -> Catalogue:
        known = self._catalogue
        if known is not None and version in (None, known.version):
            return known
        meta = {str(key): _number(value) for key, value in self.rows(queries.META)}
        found = Catalogue(
            version=meta["topology"],
            queues={str(name): _number(id) for id, name in self.rows(queries.QUEUES)},
            control="control" in meta,
            feed_limit=meta.get("feed_limit"),
            left_out=frozenset(k.removeprefix(LEFT_OUT) for k in meta if k.startswith(LEFT_OUT)),
        )
        self._catalogue = found
        return found


def _number(value: Value) -> int:
    return value if isinstance(value, int) else int(value or 0)


def _numbers(value: Value) -> list[int]:
    return list(map(int, str(value).split(","))) if value is not None else []


def _blob(value: Value) -> bytes:
    return value if isinstance(value, bytes) else b""


def _cut(joined: bytes, lengths: Sequence[int]) -> list[bytes]:
    parts: list[bytes] = []
    start = 0
    for length in lengths:
        parts.append(joined[start : start + length])
        start += length
    return parts
