"""Which jobs a program means: a filter's parts as keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict, TypeVar

import msgspec

from taskyard.ledger.filters import (
    ACTIVE,
    MOMENTS,
    Filter,
    Span,
    parse_argument,
    parse_details,
    parse_instant,
    parse_priorities,
    parse_states,
)
from taskyard.shared.clock import from_datetime
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

#: One of them, or several of which any will do.
Names: TypeAlias = str | Sequence[str]
#: A date, or text as options take it: ISO 8601, `90m` ago, `+2h` from now.
When: TypeAlias = datetime | str


class Criteria(TypedDict, total=False):
    """What must hold of the jobs that are meant, all of it; see `taskyard jobs list --help`.

    Attributes:
        state: their state. `active` means all but the final ones.
        reason: failure kind or park reason.
        fingerprint: how that of their error begins.
        name: what their sender calls them; also a pattern.
        from_host: `host` or `host:pid` that sent them first.
        ok: they succeeded, and said so (False: without a word).
        priority: `7`, `high`, or a range such as `4-9`.
        arg: arguments at the top of their own, by name.
        kept: they are kept for ever (or not).
        created_after: the `…_after` include the instant, the `…_before` do not.

    """

    state: Names
    active: bool
    queue: Names
    task: Names
    app: Names
    tenant: Names
    id: Names
    parent: Names
    reason: Names
    fingerprint: Names
    name: Names
    from_host: Names
    ok: bool
    kept: bool
    priority: int | str
    arg: Mapping[str, str | float | bool]
    created_after: When
    created_before: When
    changed_after: When
    changed_before: When
    due_after: When
    due_before: When
    started_after: When
    started_before: When
    ended_after: When
    ended_before: When


_NAMES: Final = {
    "queue": "queues",
    "task": "tasks",
    "app": "apps",
    "tenant": "tenants",
    "id": "ids",
    "parent": "parents",
    "fingerprint": "fingerprints",
    "name": "names",
    "from_host": "hosts",
}


def filter_from(given: Criteria, now_ms: int) -> Filter:
    """Return the filter that keyword arguments mean.

    Raises:
        ConfigurationError: one of them is unknown, or cannot be read.

    """
    unknown = given.keys() - Criteria.__annotations__.keys()
    if unknown:
        raise ConfigurationError(
            f"jobs cannot be chosen by {', '.join(sorted(unknown))}; "
            f"by {', '.join(Criteria.__annotations__)} they can"
        )
    states = parse_states(_several(given.get("state", ())))
    if given.get("active"):
        if states:
            raise ConfigurationError("active names states, as state does: give one of them")
        states = ACTIVE
    fields: dict[str, Any] = {
        field: _several(given[name])  # type: ignore[literal-required]  # of the table above
        for name, field in _NAMES.items()
        if name in given
    }
    priority = given.get("priority")
    return Filter(
        states=states,
        details=parse_details(_several(given.get("reason", ()))),
        ok=given.get("ok"),
        kept=given.get("kept"),
        priorities=() if priority is None else parse_priorities([str(priority)]),
        arguments=tuple(
            parse_argument(f"{name}={msgspec.json.encode(value).decode()}")
            for name, value in given.get("arg", {}).items()
        ),
        spans=tuple(_spans(given, now_ms)),
        **fields,
    )


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _spans(given: Mapping[str, Any], now_ms: int) -> Iterable[Span]:
    for moment in MOMENTS:
        after, before = given.get(f"{moment}_after"), given.get(f"{moment}_before")
        if after is not None or before is not None:
            yield Span(
                moment=moment,
                after_ms=None if after is None else _instant(after, now_ms),
                before_ms=None if before is None else _instant(before, now_ms),
            )


def _instant(when: When, now_ms: int) -> int:
    return from_datetime(when) if isinstance(when, datetime) else parse_instant(when, now_ms)
