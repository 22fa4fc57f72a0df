"""Asks for changes of jobs: refuses at once what cannot be, and writes intents for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from sqlalchemy import select

from taskyard.ledger.changing import COLUMNS, Refuse, step_of
from taskyard.ledger.schema import jobs
from taskyard.shared.changes import Asked, change_record
from taskyard.shared.envelope import mint_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from sqlalchemy import RowMapping

    from taskyard.broker_setup.asking import Asking
    from taskyard.ledger.database import Database
    from taskyard.shared.broker import Broker
    from taskyard.shared.changes import Change
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.intents import Intents

    #: Says of a job's row (None: unknown) what is to be different, or why nothing can be, in words.
    ChangeOf: TypeAlias = Callable[[RowMapping | None], Change | str]

#: Rows of one query.
_PAGE: Final = 500


async def plan(
    broker: Broker, database: Database, ids: Sequence[str], change_of: ChangeOf, *, by: str
) -> tuple[dict[str, Asked], dict[str, str]]:
    """Return what is to be asked for of each job, and which jobs are refused, with the reason.

    Args:
        broker: open.
        database: of the ledger.
        ids: of the jobs.
        change_of: see there.
        by: who asks.

    """
    asked: dict[str, Asked] = {}
    refused: dict[str, str] = {}
    now_ms = broker.now_ms()
    columns = [jobs.c[name] for name in COLUMNS]
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        async with database.begin() as connection:
            found = (
                await connection.execute(select(*columns).where(jobs.c.id.in_(page)))
            ).mappings()
            rows = {row["id"]: row for row in found}
        for job in page:
            row = rows.get(job)
            change = change_of(row)
            if isinstance(change, str):
                refused[job] = change
                continue
            wish = Asked(
                generation=1 if row is None else row["generation"] + 1,
                token=mint_id(),
                change=change,
            )
            step = step_of(row, wish, by=by, now_ms=now_ms)
            if isinstance(step, Refuse):
                refused[job] = step.text
            else:
                asked[job] = wish
    return asked, refused


async def ask(
    broker: Broker, asking: Asking, asked: Mapping[str, Asked], *, by: str, wait_s: float
) -> None:
    """Write the intents and wait for the answers; see `Asking.ask`."""

    def records(intents: Intents) -> dict[str, tuple[str, ControlRecord]]:
        now_ms = broker.now_ms()
        found: dict[str, tuple[str, ControlRecord]] = {}
        for job, meant in asked.items():
            earlier = intents.change_of(job)
            # What that one published, or is about to, is older than what this one will.
            least = 0 if earlier is None else earlier.asked.generation + 1
            wish = msgspec.structs.replace(meant, generation=max(meant.generation, least))
            found[wish.token] = (job, change_record(job, wish, by=by, at_ms=now_ms))
        return found

    if asked:
        await asking.ask(broker, records, wait_s=wait_s)
