"""Gathers what `explain` needs to know of a job: from the ledger, the control log and the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, literal, or_, select

from taskyard.broker_setup.intents import read_intents
from taskyard.ledger import lookup
from taskyard.ledger.explaining import Facts
from taskyard.ledger.history import peek
from taskyard.ledger.reading import EXACT, Count
from taskyard.ledger.schema import jobs
from taskyard.shared.broker import QueueStats
from taskyard.shared.envelope import Envelope
from taskyard.shared.errors import NotFound
from taskyard.shared.intents import Intents
from taskyard.shared.states import FINAL, State

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.ledger.reading import JobRow
    from taskyard.shared.broker import Broker


async def facts_of(broker: Broker, connection: AsyncConnection, job_id: str) -> Facts:
    """Return what is known of a job.

    Raises:
        NotFound: the ledger knows no such job.
        ControlUnavailable: operators' intents cannot be read now.
        Unavailable: the broker cannot be asked now.

    """
    now_ms = broker.now_ms()
    history = await lookup.job(connection, job_id, now_ms=now_ms)
    if history is None:
        raise NotFound(
            f"the ledger knows no job {job_id!r}: it was never sent, its record has not arrived "
            "yet, or retention has let it go"
        )
    job = history.job
    if State(job.state) in FINAL:
        return Facts(history=history, now_ms=now_ms, queue=QueueStats())
    intents = await read_intents(broker) if broker.capabilities.control else Intents()
    ahead = await _ahead(connection, job, now_ms)
    return Facts(
        history=history,
        now_ms=now_ms,
        queue=(await broker.stats([job.queue]))[job.queue],
        pause=intents.pause_of(job.queue, now_ms),
        cancel=intents.cancel_for(await _envelope(connection, job)),
        ahead=ahead.number,
        more=ahead.more,
        running=await _running(connection, job.queue),
    )


async def _envelope(connection: AsyncConnection, job: JobRow) -> Envelope:
    found = select(jobs.c.envelope).where(jobs.c.id == job.id)
    packed = (await connection.execute(found)).scalar_one_or_none()
    return Envelope(id=job.id, queue=job.queue, task=job.task) if packed is None else peek(packed)


async def _ahead(connection: AsyncConnection, job: JobRow, now_ms: int) -> Count:
    """Count what is due in the job's queue and goes before it: higher, or as high and due sooner."""
    due_ms = job.due_ms or job.created_ms or 0
    sooner = or_(
        jobs.c.priority > job.priority,
        and_(
            jobs.c.priority == job.priority,
            or_(jobs.c.due_ms < due_ms, and_(jobs.c.due_ms == due_ms, jobs.c.id < job.id)),
        ),
    )
    found = (
        select(literal(1).label("one"))
        .where(
            jobs.c.queue == job.queue,
            jobs.c.state == State.QUEUED.value,
            jobs.c.due_ms <= now_ms,
            sooner,
        )
        .limit(EXACT + 1)
        .subquery()
    )
    number: int = (await connection.execute(select(func.count()).select_from(found))).scalar_one()
    return Count(min(number, EXACT), more=number > EXACT)


async def _running(connection: AsyncConnection, queue: str) -> int:
    here = and_(jobs.c.queue == queue, jobs.c.state == State.RUNNING.value)
    number: int = (
        await connection.execute(select(func.count()).select_from(jobs).where(here))
    ).scalar_one()
    return number
