"""Reads jobs: pages of a list, how many there are, and which names occur."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import func, literal, select, text

from taskyard.ledger.conditions import INSTANTS, conditions
from taskyard.ledger.filters import Filter
from taskyard.ledger.history import peek
from taskyard.ledger.schema import jobs
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.sealing import shown
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Column, ColumnElement, RowMapping
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.filters import Sort
    from taskyard.shared.envelope import Envelope

#: Up to how many a number of jobs is exact.
EXACT: Final = 10_000


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job stands, without what is heavy.

    Attributes:
        state: `scheduled` where it is due later.
        arguments: as `taskyard parked show` shows them; only when they were asked for.

    The others are those of `schema.jobs`.
    """

    id: str
    queue: str
    task: str
    state: str
    detail: str | None
    ok: str | None
    priority: int | None
    app: str | None
    tenant: str | None
    parent: str | None
    name: str | None
    submitted_from: str | None
    kept: bool
    attempt: int
    deliveries: int
    generation: int
    created_ms: int | None
    changed_ms: int
    due_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    expires_ms: int | None
    ttr_ms: int | None
    worker: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    arguments: object = msgspec.UNSET


class Count(msgspec.Struct, frozen=True):
    """How many jobs there are; with `more`, there are more than `number`."""

    number: int
    more: bool

    def __str__(self) -> str:
        return f"{self.number:,}".replace(",", " ") + ("+" if self.more else "")


_LIGHT: Final = tuple(jobs.c[name] for name in JobRow.__struct_fields__ if name != "arguments")


async def list_jobs(
    connection: AsyncConnection,
    meant: Filter,
    *,
    now_ms: int,
    sort: Sort = "created",
    descending: bool = True,
    limit: int = 100,
    offset: int = 0,
    arguments: bool = False,
    few: bool = False,
) -> list[JobRow]:
    """Return one page of the jobs that a filter means.

    Args:
        connection: to the ledger.
        meant: which jobs.
        now_ms: what is due later than this is scheduled.
        sort: by what; jobs that are equal in it are in the order of their ids.
        descending: the greatest first. What is not known is less than all else.
        limit: how many at most.
        offset: how many to pass over.
        arguments: also read these.
        few: they were counted, and there are not more than can be sorted at once. PostgreSQL would
            else look for them in the order of an index, for long where it takes them for many.

    """
    columns = (*_LIGHT, jobs.c.envelope) if arguments else _LIGHT
    found = select(*columns).where(*_where(connection, meant, now_ms))
    keys: Any = jobs.c
    if few:
        chosen = found.cte("chosen").prefix_with("MATERIALIZED", dialect="postgresql")
        found, keys = select(chosen), chosen.c
    statement = (
        found.order_by(*_order(keys, sort, descending=descending)).limit(limit).offset(offset)
    )
    await plan_each(connection)
    rows = (await connection.execute(statement)).mappings()
    return [job_row(row, now_ms) for row in rows]


async def next_jobs(
    connection: AsyncConnection,
    meant: Filter,
    after: str,
    *,
    now_ms: int,
    limit: int,
    arguments: bool = False,
) -> list[JobRow]:
    """Return the next jobs that a filter means behind an id, in the order of ids.

    So all of them can be gone through while they change, or are deleted.
    """
    columns = (*_LIGHT, jobs.c.envelope) if arguments else _LIGHT
    statement = (
        select(*columns)
        .where(jobs.c.id > after, *_where(connection, meant, now_ms))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    await plan_each(connection)
    rows = (await connection.execute(statement)).mappings()
    return [job_row(row, now_ms) for row in rows]


async def first_jobs(
    connection: AsyncConnection, queue: str, state: State, *, now_ms: int, limit: int
) -> list[JobRow]:
    """Return the first jobs of a queue: that run next, become due next, or are parked longest."""
    meant = Filter(queues=(queue,), states=(state,))
    orders: dict[State, list[ColumnElement[Any]]] = {
        State.QUEUED: [jobs.c.priority.desc().nulls_last(), jobs.c.due_ms.asc(), jobs.c.id],
        State.PARKED: [jobs.c.ended_ms.asc(), jobs.c.id],
    }
    statement = (
        select(*_LIGHT, jobs.c.envelope)
        .where(*_where(connection, meant, now_ms))
        .order_by(*orders.get(state, [jobs.c.due_ms.asc(), jobs.c.id]))
        .limit(limit)
    )
    await plan_each(connection)
    rows = (await connection.execute(statement)).mappings()
    return [job_row(row, now_ms) for row in rows]


async def plan_each(connection: AsyncConnection) -> None:
    """Have PostgreSQL plan for the values asked for, in this transaction.

    A statement that a connection repeats would be planned once for any values, and a rare state be
    looked for as if it were a usual one: a hundred times slower.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))


async def ids_of(connection: AsyncConnection, meant: Filter, *, now_ms: int) -> list[str]:
    """Return the ids of all jobs that a filter means, in their order."""
    statement = select(jobs.c.id).where(*_where(connection, meant, now_ms)).order_by(jobs.c.id)
    return list((await connection.execute(statement)).scalars())


async def count(
    connection: AsyncConnection, meant: Filter, *, now_ms: int, cap: int = EXACT
) -> Count:
    """Return how many jobs a filter means; the database stops counting beyond `cap`."""
    found = (
        select(literal(1).label("one"))
        .select_from(jobs)
        .where(*_where(connection, meant, now_ms))
        .limit(cap + 1)
        .subquery()
    )
    await plan_each(connection)
    number: int = (await connection.execute(select(func.count()).select_from(found))).scalar_one()
    return Count(min(number, cap), more=number > cap)


async def queues(connection: AsyncConnection) -> list[str]:
    """Return the queues of all jobs."""
    return await _distinct(connection, jobs.c.queue)


async def apps(connection: AsyncConnection) -> list[str]:
    """Return the applications that sent jobs."""
    return await _distinct(connection, jobs.c.app)


async def hosts(connection: AsyncConnection) -> list[str]:
    """Return the hosts that sent jobs: by one look into the index for each, whatever its processes."""
    found: set[str] = set()
    column, after = jobs.c.submitted_from, ""
    while True:
        statement = select(func.min(column)).where(column > after)
        first: str | None = (await connection.execute(statement)).scalar_one()
        if first is None:
            return sorted(found)
        host = host_of(first)
        found.add(host)
        # Behind all processes of this host: compared byte by byte, `;` follows `:`.
        after = f"{host};" if host != first else first


def host_of(origin: str) -> str:
    """Return the host of `host:pid`; of other programs' texts, all of it."""
    host, colon, pid = origin.rpartition(":")
    return host if colon and pid.isdecimal() else origin


async def _distinct(connection: AsyncConnection, column: Column[Any]) -> list[str]:
    """Return a column's values: by one look into its index for each, however many rows there are."""
    found = select(func.min(column).label("name")).cte("found", recursive=True)
    following = select(func.min(column)).where(column > found.c.name).scalar_subquery()
    found = found.union_all(select(following).where(found.c.name.is_not(None)))
    return list(
        (await connection.execute(select(found.c.name).where(found.c.name.is_not(None)))).scalars()
    )


def job_row(row: RowMapping | Mapping[str, Any], now_ms: int) -> JobRow:
    """Return a job as its row says, with its arguments if the row holds its envelope."""
    fields = dict(row)
    more: dict[str, Any] = {}
    if "envelope" in fields:
        envelope = envelope_of(fields.pop("envelope"))
        more["arguments"] = None if envelope is None else shown(envelope)
    due_ms = fields["due_ms"]
    if fields["state"] == State.QUEUED.value and due_ms is not None and due_ms > now_ms:
        fields["state"] = State.SCHEDULED.value
    return JobRow(**fields, **more)


def envelope_of(packed: bytes | None) -> Envelope | None:
    """Return a row's envelope; None where it holds none that this version reads."""
    if packed is None:
        return None
    try:
        return peek(packed)
    except UNREADABLE:
        return None


def _where(connection: AsyncConnection, meant: Filter, now_ms: int) -> list[ColumnElement[bool]]:
    return conditions(meant, now_ms=now_ms, postgresql=connection.dialect.name == "postgresql")


def _order(keys: Any, sort: Sort, *, descending: bool) -> list[ColumnElement[Any]]:
    column = INSTANTS[sort] if sort in INSTANTS else jobs.c[sort]
    ends = [column, jobs.c.id] if column is not jobs.c.id else [column]
    return [_end(keys[end.name], known=not end.nullable, descending=descending) for end in ends]


def _end(key: ColumnElement[Any], *, known: bool, descending: bool) -> ColumnElement[Any]:
    if descending:
        return key.desc() if known else key.desc().nulls_last()
    return key.asc() if known else key.asc().nulls_first()
