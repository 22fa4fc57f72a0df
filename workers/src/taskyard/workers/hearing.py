"""What a worker does when it reads intents about jobs that it is running.

It ends those that are to be aborted, and says in the control log that it was running them: whoever
asked is told so, and a job that is to be changed stays as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.changes import Answer, ChangeState, Start, answer_record, start_record
from taskyard.shared.control import ControlUnavailable, token_of
from taskyard.shared.errors import Unavailable
from taskyard.shared.intents import CANCEL, CHANGE, kind_and_subject
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.workers.lane import Lane

_log = get_logger(__name__)

#: Seconds between two tries to write into the control log, and how many there are.
_RETRY_S: Final = 0.5
_TRIES: Final = 60


class Hearing:
    """Acts on intents about running jobs. Belongs to the event loop."""

    def __init__(self, broker: Broker, lanes: Mapping[str, Lane], worker: str) -> None:
        """Hear for a worker.

        Args:
            broker: of the control log.
            lanes: of the worker, by queue.
            worker: `host:pid`.

        """
        self._broker = broker
        self._lanes = lanes
        self._worker = worker
        self._saying: set[asyncio.Task[None]] = set()

    def hear(self, records: Sequence[ControlRecord]) -> None:
        """Act on records that were just read."""
        about_jobs = [record for record in records if record.key.startswith("job:")]
        if not about_jobs:
            return
        running = {
            attempt.envelope.id: attempt.envelope
            for lane in self._lanes.values()
            for attempt in lane.running
        }
        known = replies(about_jobs, running, worker=self._worker, now_ms=self._broker.now_ms())
        self._overtake(overtaken(about_jobs, running))
        for job_id, by in aborts(about_jobs, running):
            for lane in self._lanes.values():
                lane.abort(job_id, by)
        if known:
            task = asyncio.get_running_loop().create_task(self._say(known), name="answer")
            self._saying.add(task)
            task.add_done_callback(self._saying.discard)

    def _overtake(self, generations: Mapping[str, int]) -> None:
        for attempt in [each for lane in self._lanes.values() for each in lane.running]:
            envelope = attempt.envelope
            if generations.get(envelope.id, 0) > envelope.generation:
                attempt.envelope = msgspec.structs.replace(
                    envelope, generation=generations[envelope.id]
                )

    def close(self) -> None:
        """Say nothing more."""
        for task in self._saying:
            task.cancel()

    async def _say(self, records: Sequence[ControlRecord]) -> None:
        problem = ""
        for _ in range(_TRIES):
            try:
                await self._broker.append_control(records)
            except (ControlUnavailable, Unavailable) as error:
                problem = str(error)
                await asyncio.sleep(_RETRY_S)
            else:
                return
        _log.error(
            "that jobs were running when they were to be changed could not be written down",
            keys=[record.key for record in records][:10],
            problem=problem,
        )


def aborts(records: Iterable[ControlRecord], running: Collection[str]) -> list[tuple[str, str]]:
    """Return the running jobs that are to be ended now, each with who asked."""
    found: list[tuple[str, str]] = []
    for record in records:
        kind, job_id = kind_and_subject(record.key)
        wanted = kind == CANCEL and record.op == "cancel" and (record.body or {}).get("abort")
        if wanted and job_id in running:
            found.append((job_id, record.by))
    return found


def overtaken(records: Iterable[ControlRecord], running: Mapping[str, Envelope]) -> dict[str, int]:
    """Return the generation that running jobs have from now on, by their ids.

    Of a change that was published before its worker read of it nothing comes, but the ledger has
    heard of the new form. What the job comes to as it was has to be the later word.
    """
    found: dict[str, int] = {}
    for record in records:
        kind, job_id = kind_and_subject(record.key)
        if kind == CHANGE and record.op == "changed" and job_id in running:
            change = ChangeState.of(record, None)
            if change is not None and change.is_older(running[job_id]):
                found[job_id] = max(change.asked.generation, found.get(job_id, 0))
    return found


def replies(
    records: Iterable[ControlRecord],
    running: Mapping[str, Envelope],
    *,
    worker: str,
    now_ms: int,
) -> list[ControlRecord]:
    """Return what is to be written about jobs that run and are to be cancelled or changed.

    Args:
        records: about jobs, as they were read.
        running: the jobs that this worker runs, by their ids.
        worker: `host:pid`.
        now_ms: the broker's instant, in milliseconds since the epoch.

    """
    found: list[ControlRecord] = []
    for record in records:
        kind, job_id = kind_and_subject(record.key)
        envelope = running.get(job_id)
        if envelope is None:
            continue
        if kind == CHANGE and record.op in {"change", "changed"}:
            change = ChangeState.of(record, None)
            if change is not None and change.is_older(envelope):
                start = Start(
                    of=change.asked.token,
                    attempt=envelope.attempt,
                    generation=envelope.generation,
                    worker=worker,
                )
                found.append(start_record(job_id, start, at_ms=now_ms))
        elif kind == CANCEL and record.op == "cancel" and (token := token_of(record)):
            then = "it is ended" if (record.body or {}).get("abort") else "it finishes"
            text = f"attempt {envelope.attempt} was running ({worker}): {then}, and no other starts"
            answer = Answer(of=token, done=True, text=text)
            found.append(answer_record(job_id, answer, by=worker, at_ms=now_ms))
    return found
