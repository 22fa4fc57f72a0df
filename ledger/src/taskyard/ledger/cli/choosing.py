"""Which jobs a command means: named by their ids, or found by a filter."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from taskyard.ledger.cli.options import filter_of, filter_options
from taskyard.ledger.cli.session import with_database
from taskyard.ledger.filters import Filter
from taskyard.shared.clock import SystemClock
from taskyard.shared.states import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskyard.ledger.database import Database

#: States of jobs that have not started, or are to start again.
NOT_STARTED: Final = (State.QUEUED, State.SCHEDULED, State.WAITING, State.SUSPENDED)


def meant(
    job_ids: Sequence[str], options: Mapping[str, Any], states: Sequence[State]
) -> tuple[str, ...] | Filter:
    """Return the ids that are named, or the filter, which means `states` unless it says which.

    Raises:
        click.UsageError: neither is given, or both.

    """
    found = filter_of(options, SystemClock().now_ms())
    if bool(job_ids) is (found != Filter()):
        raise click.UsageError("name jobs by their ids, or give options that say which")
    if job_ids:
        return tuple(dict.fromkeys(job_ids))
    return found if found.states else replace(found, states=tuple(states))


async def ids_meant(database: Database, which: tuple[str, ...] | Filter) -> list[str]:
    """Return the ids of the jobs that are meant, in their order."""
    from taskyard.ledger.reading import ids_of

    if not isinstance(which, Filter):
        return list(which)
    async with database.begin() as connection:
        return await ids_of(connection, which, now_ms=SystemClock().now_ms())


class LedgerFilter:
    """What finds jobs for commands that need no ledger themselves (see `JobFilter`)."""

    def add_options(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Give a command the options of a filter."""
        return filter_options(command)

    def ids(self, named: Sequence[str], options: Mapping[str, Any]) -> Sequence[str]:
        """Return the jobs that are named, or that a filter finds and that have not started."""
        which = meant(named, options, NOT_STARTED)
        if not isinstance(which, Filter):
            return which
        return asyncio.run(with_database(lambda database: ids_meant(database, which)))


FILTER: Final = LedgerFilter()
