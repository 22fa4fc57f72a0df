"""A filter as conditions of SQL, in the dialect of either database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
from sqlalchemy import and_, exists, func, literal, or_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from taskyard.ledger.schema import jobs
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeAlias

    from sqlalchemy import Column, ColumnElement

    from taskyard.ledger.filters import Argument, Filter

    Condition: TypeAlias = ColumnElement[bool]

INSTANTS: Final[Mapping[str, Column[Any]]] = {
    "created": jobs.c.created_ms,
    "changed": jobs.c.changed_ms,
    "due": jobs.c.due_ms,
    "started": jobs.c.started_ms,
    "ended": jobs.c.ended_ms,
}

# How a text is written in a pattern, of LIKE and of GLOB, so that it stands for itself.
_LIKE: Final = {ord("\\"): r"\\", ord("%"): r"\%", ord("_"): r"\_"}
_LIKE_WITH_STARS: Final = {**_LIKE, ord("*"): "%", ord("?"): "_"}
_GLOB: Final = {ord("["): "[[]", ord("*"): "[*]", ord("?"): "[?]"}
_GLOB_WITH_STARS: Final = {ord("["): "[[]"}


class _Matches(Protocol):
    """Like a text with stars, or how a column begins, in either dialect."""

    def __call__(self, column: Column[Any], text: str, *, stars: bool) -> Condition: ...


_JSONB: Final = JSONB(none_as_null=True)
_encode: Final = msgspec.json.encode


def conditions(meant: Filter, *, now_ms: int, postgresql: bool) -> list[Condition]:
    """Return what must hold of a job's row, all of it.

    Args:
        meant: the filter.
        now_ms: what is due later than this is scheduled.
        postgresql: it is for PostgreSQL; SQLite otherwise.

    """
    return [
        *_named(meant),
        *_standing(meant, now_ms),
        *_times(meant),
        *_patterns(meant, postgresql=postgresql),
        *(_holds(argument, postgresql=postgresql) for argument in meant.arguments),
    ]


def _named(meant: Filter) -> Iterator[Condition]:
    """Yield the conditions of exact names."""
    named: Mapping[Column[Any], Sequence[str]] = {
        jobs.c.queue: meant.queues,
        jobs.c.app: meant.apps,
        jobs.c.tenant: meant.tenants,
        jobs.c.id: meant.ids,
        jobs.c.parent: meant.parents,
        jobs.c.detail: meant.details,
    }
    for column, names in named.items():
        if names:
            yield _is_one_of(column, names)


def _standing(meant: Filter, now_ms: int) -> Iterator[Condition]:
    if meant.states:
        yield _state(frozenset(meant.states), now_ms)
    if meant.ok is not None:
        said = jobs.c.ok.is_not(None) if meant.ok else jobs.c.ok.is_(None)
        yield and_(jobs.c.state == State.SUCCEEDED.value, said)
    if meant.priorities:
        yield or_(*(jobs.c.priority.between(low, high) for low, high in meant.priorities))
    if meant.kept is not None:
        yield jobs.c.kept.is_(meant.kept)


def _state(states: frozenset[State], now_ms: int) -> Condition:
    """Return that a job is in one of the states; `scheduled` is kept as queued, and due later."""
    stored = {state.value for state in states - {State.SCHEDULED, State.QUEUED}}
    found: list[Condition] = []
    if states >= {State.SCHEDULED, State.QUEUED}:
        stored.add(State.QUEUED.value)
    elif State.SCHEDULED in states:
        found.append(is_scheduled(now_ms))
    elif State.QUEUED in states:
        due = or_(jobs.c.due_ms.is_(None), jobs.c.due_ms <= now_ms)
        found.append(and_(jobs.c.state == State.QUEUED.value, due))
    if stored:
        found.append(_is_one_of(jobs.c.state, sorted(stored)))
    return or_(*found)


def is_scheduled(now_ms: int) -> Condition:
    """Return that a job is due later."""
    return and_(jobs.c.state == State.QUEUED.value, jobs.c.due_ms > now_ms)


def _times(meant: Filter) -> Iterator[Condition]:
    for span in meant.spans:
        column = INSTANTS[span.moment]
        if span.after_ms is not None:
            yield column >= span.after_ms
        if span.before_ms is not None:
            yield column < span.before_ms


def _patterns(meant: Filter, *, postgresql: bool) -> Iterator[Condition]:
    matches = _like if postgresql else _glob
    if meant.tasks:
        yield _is_like_one_of(jobs.c.task, meant.tasks, matches)
    if meant.names:
        yield _is_like_one_of(jobs.c.name, meant.names, matches)
    if meant.hosts:
        yield or_(*(_is_from(host, matches) for host in meant.hosts))
    if meant.fingerprints:
        yield or_(*(matches(jobs.c.fingerprint, text, stars=False) for text in meant.fingerprints))


def _is_like_one_of(column: Column[Any], texts: Sequence[str], matches: _Matches) -> Condition:
    """Return that a column is one of some texts, or is like one with stars."""
    found = [matches(column, text, stars=True) for text in texts if _has_stars(text)]
    exact = [text for text in texts if not _has_stars(text)]
    if exact:
        found.append(_is_one_of(column, exact))
    return or_(*found)


def _is_from(host: str, matches: _Matches) -> Condition:
    """Return that a job was sent from a host, by any process or (`host:pid`) by that one."""
    column = jobs.c.submitted_from
    return or_(column == host, matches(column, f"{host}:", stars=False))


def _has_stars(text: str) -> bool:
    return "*" in text or "?" in text


def _like(column: Column[Any], text: str, *, stars: bool) -> Condition:
    """Return that a column is like a text with stars, or begins with a text."""
    pattern = text.translate(_LIKE_WITH_STARS) if stars else text.translate(_LIKE) + "%"
    return column.like(pattern, escape="\\")


def _glob(column: Column[Any], text: str, *, stars: bool) -> Condition:
    """Return the same for SQLite, whose LIKE takes capitals for small letters."""
    pattern = text.translate(_GLOB_WITH_STARS) if stars else text.translate(_GLOB) + "*"
    return column.op("GLOB", is_comparison=True)(pattern)


def _is_one_of(column: Column[Any], values: Sequence[str]) -> Condition:
    return column == values[0] if len(values) == 1 else column.in_(values)


def _holds(argument: Argument, *, postgresql: bool) -> Condition:
    """Return that a job has this argument, as a text or as the number or truth that it spells."""
    values = [argument.text, *([] if argument.plain is None else [argument.plain])]
    if postgresql:
        facets = type_coerce(jobs.c.facets, _JSONB)
        # Containment is what the GIN index answers.
        pairs = [_encode({argument.name: value}).decode() for value in values]
        return or_(*(facets.contains(literal(pair, _JSONB)) for pair in pairs))
    each = func.json_each(jobs.c.facets).table_valued("key", "value", "type")
    return or_(
        *(
            exists().where(
                each.c.key == argument.name, each.c.type.in_(_types(v)), each.c.value == v
            )
            for v in values
        )
    )


def _types(value: str | float) -> Sequence[str]:
    """Return what SQLite calls a value's type in JSON; it reads truth as 1 and 0."""
    if isinstance(value, str):
        return ("text",)
    if isinstance(value, bool):
        return ("true",) if value else ("false",)
    return ("integer", "real")
