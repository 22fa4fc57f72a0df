"""Takes jobs that are over out of the ledger, or has it keep them for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select, update

from taskyard.ledger.schema import jobs, runs
from taskyard.shared.states import FINAL, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

UNKNOWN: Final = "the ledger knows no such job"


async def forget(
    connection: AsyncConnection, ids: Sequence[str], *, force: bool = False
) -> dict[str, str]:
    """Delete jobs that are over, with their runs; return for each id an empty text, or why not.

    Args:
        connection: in a transaction of `begin_writing`.
        ids: which.
        force: also those that are kept for ever.

    """
    statement = select(jobs.c.id, jobs.c.state, jobs.c.kept).where(jobs.c.id.in_(ids))
    rows = (await connection.execute(statement.order_by(jobs.c.id).with_for_update())).mappings()
    known: Mapping[str, tuple[str, bool]] = {row["id"]: (row["state"], row["kept"]) for row in rows}
    found = {job_id: _problem(known.get(job_id), force=force) for job_id in ids}
    gone = [job_id for job_id, problem in found.items() if not problem]
    await connection.execute(delete(jobs).where(jobs.c.id.in_(gone)))
    await connection.execute(delete(runs).where(runs.c.job.in_(gone)))
    return found


async def keep(connection: AsyncConnection, ids: Sequence[str], *, kept: bool) -> dict[str, str]:
    """Have jobs kept for ever, or (not `kept`) as long as retention says; see `forget`."""
    statement = update(jobs).where(jobs.c.id.in_(ids)).values(kept=kept).returning(jobs.c.id)
    known = set((await connection.execute(statement)).scalars())
    return {job_id: "" if job_id in known else UNKNOWN for job_id in ids}


def _problem(row: tuple[str, bool] | None, *, force: bool) -> str:
    if row is None:
        return UNKNOWN
    state, kept = row
    if State(state) not in FINAL:
        return f"it is {state}, not over: the broker still has it"
    return "it is kept for ever: --force deletes it" if kept and not force else ""
