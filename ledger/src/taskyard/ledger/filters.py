"""Which jobs are meant: a filter as a value, and how people write its parts.

Each field that is given must hold; a field with several values holds with any one of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

import msgspec

from taskyard.ledger.texts import clean
from taskyard.shared.clock import from_datetime
from taskyard.shared.duration import parse_duration
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.priority import parse_priority
from taskyard.shared.states import FINAL, FailureKind, ParkReason, State

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The instants of a job that a range can be about.
Moment = Literal["created", "changed", "due", "started", "ended"]
MOMENTS: Final[tuple[Moment, ...]] = get_args(Moment)

#: What a list can be in the order of.
Sort = Literal[Moment, "id", "queue", "task", "priority", "state", "attempt"]
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)

#: The states of jobs that are not over.
ACTIVE: Final = tuple(state for state in State if state not in FINAL)

#: Beyond this an integer is no longer exact as a number of JSON, and no argument is found by it.
_SEARCHED_INT: Final = 2**53


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of time: from `after_ms` on, and before `before_ms`; None is open."""

    moment: Moment
    after_ms: int | None = None
    before_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Argument:
    """An argument with its value: a text, and what the text is as a number or truth, if it is one."""

    name: str
    text: str
    plain: int | float | bool | None = None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which jobs are meant; an empty one means all.

    Attributes:
        states: `scheduled` is queued and due later, `queued` is due.
        queues: names.
        tasks: full names; `*` stands for any text, `?` for any character.
        apps: the applications that sent it.
        tenants: of its context.
        ids: job ids.
        parents: ids of the jobs that sent it.
        names: what senders call it; `*` and `?` as for tasks.
        hosts: where it was sent first: `host`, or `host:pid`.
        fingerprints: how one begins.
        details: failure kinds and park reasons.
        ok: the handler said that it succeeded, or (False) it succeeded without saying so.
        priorities: ranges, both ends included.
        spans: ranges of its instants; all of them hold.
        arguments: all of them hold.
        kept: it is kept for ever, or (False) not.

    """

    states: tuple[State, ...] = ()
    queues: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    ok: bool | None = None
    priorities: tuple[tuple[int, int], ...] = ()
    spans: tuple[Span, ...] = ()
    arguments: tuple[Argument, ...] = ()
    kept: bool | None = None

    def __str__(self) -> str:
        """Say which, in a line for people."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        words = [
            f"{name}={_word(value)}" for name, value in given.items() if value not in ((), None)
        ]
        return " ".join(words) or "all jobs"


def _word(value: object) -> str:
    match value:
        case tuple():
            return ",".join(map(_word, cast("tuple[object, ...]", value)))
        case Span():
            return f"{value.moment}[{value.after_ms or ''},{value.before_ms or ''})"
        case Argument():
            return f"{value.name}:{value.text}"
        case _:
            return str(value)


def listed(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of options that are given more than once, or hold a comma list."""
    entries = (entry.strip() for text in texts for entry in text.split(","))
    return tuple(dict.fromkeys(entry for entry in entries if entry))


def parse_states(texts: Iterable[str]) -> tuple[State, ...]:
    """Return states by their names (ConfigurationError for what is none)."""
    found = listed(texts)
    for name in found:
        if name not in set(State):
            raise ConfigurationError(f"state {name!r} is none of {', '.join(State)}")
    return tuple(State(name) for name in found)


def parse_details(texts: Iterable[str]) -> tuple[str, ...]:
    """Return failure kinds and park reasons (ConfigurationError for what is neither)."""
    found = listed(texts)
    for name in found:
        if name not in {*FailureKind, *ParkReason}:
            raise ConfigurationError(
                f"reason {name!r} is neither a kind of failure ({', '.join(FailureKind)}) "
                f"nor a reason to park ({', '.join(ParkReason)})"
            )
    return found


def parse_priorities(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Return ranges of priorities, of `7`, `high`, `4-9` or `normal-urgent`.

    Raises:
        ConfigurationError: it is none, or the range is upside down.

    """
    found: list[tuple[int, int]] = []
    for text in listed(texts):
        low, dash, high = text.partition("-")
        least = parse_priority(low.strip())
        most = parse_priority(high.strip()) if dash else least
        if least > most:
            raise ConfigurationError(
                f"priority {text!r} holds nothing: write the lower one first, {high}-{low}"
            )
        found.append((least, most))
    return tuple(found)


def parse_sort(text: str) -> tuple[Sort, bool]:
    """Return by what to sort, and whether (of `-created`) the greatest comes first.

    Raises:
        ConfigurationError: no list is in that order.

    """
    name = text.removeprefix("-")
    for sort in SORTS:
        if sort == name:
            return sort, text != name
    raise ConfigurationError(f"sort {text!r} is none of {', '.join(SORTS)}")


def parse_argument(text: str) -> Argument:
    """Return the argument that NAME=VALUE names.

    A VALUE that is a number or a truth value in JSON finds these, and the same as a text. To find
    the text alone, write it as JSON: `zip="01234"`.

    Raises:
        ConfigurationError: it is not of that form.

    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigurationError(f"argument {text!r} is not of the form NAME=VALUE")
    try:
        read: object = msgspec.json.decode(value)
    except UNREADABLE:
        read = None
    if isinstance(read, str):
        return Argument(name=clean(name), text=clean(read))
    plain = read if isinstance(read, (int, float)) and _is_exact(read) else None
    return Argument(name=clean(name), text=clean(value), plain=plain)


def _is_exact(number: float) -> bool:
    return math.isfinite(number) and (isinstance(number, float) or abs(number) <= _SEARCHED_INT)


def parse_instant(text: str, now_ms: int) -> int:
    """Return an instant: a date of ISO 8601, or a duration ago (`90m`), or from now (`+2h`).

    A date without an offset is in UTC, as instants are printed.

    Raises:
        ConfigurationError: it is none of these.

    """
    text = text.strip()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and not text.isdecimal():
        return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    try:
        if text.startswith("+"):
            return now_ms + round(parse_duration(text[1:]) * 1000)
        return now_ms - round(parse_duration(text) * 1000)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"instant {text!r} is not valid: write a date such as 2030-01-31T18:00Z, or how long "
            "ago, such as 90m or 2d (+2h is in two hours)"
        ) from error
