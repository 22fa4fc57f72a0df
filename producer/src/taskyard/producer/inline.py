"""Eager mode as the producers use it: the place of a session, without a broker."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from taskyard.producer.call import envelope_of
from taskyard.producer.handle import AsyncHandle
from taskyard.producer.origin import origin
from taskyard.producer.replies import Awaited
from taskyard.producer.tally import Tally
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.clock import SystemClock
from taskyard.shared.eager import Eager
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.keyring import NO_KEYS, new_key, parse_keys
from taskyard.shared.task import find_declared

if TYPE_CHECKING:
    from taskyard.shared.eager import Offload
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job
    from taskyard.shared.keyring import KeyRing
    from taskyard.shared.metrics import Metrics
    from taskyard.shared.settings import Settings
    from taskyard.shared.task import Task

#: Never published anywhere; it only marks that a result is wanted.
_ADDRESS = "eager"


def _passing_key() -> KeyRing:
    """Return a key for this process alone: nothing leaves it, and it takes the same ways."""
    try:
        return parse_keys(new_key("eager"))
    except ConfigurationError:
        return NO_KEYS  # without the library; a job that needs it says so


class Inline:
    """Runs each job when it is sent. It lives on one event loop."""

    def __init__(
        self, settings: Settings, *, app: str | None, parent: str | None, metrics: Metrics
    ) -> None:
        """See `AsyncProducer`."""
        self._settings = settings
        self._app = app or settings.app or None
        self._parent = parent
        self._origin = origin()
        self._tally = Tally(metrics)
        self._clock = SystemClock()
        self._keys = settings.key_ring() or _passing_key()
        self._eager = Eager(
            rng=random.Random(), send=self.run_id, call=self.run_value, keys=self._keys
        )

    def prepare(self, job: Job[Any]) -> tuple[Task[..., Any], Envelope]:
        """Return the job's task, and the job as it would travel; callable from any thread.

        Raises:
            NotFound: the task is not declared in this process.
            PayloadTooLarge: its arguments exceed the limit.

        """
        task = job.declared or find_declared(job.queue, job.task)
        return task, envelope_of(
            job,
            self._clock.now_ms(),
            settings=self._settings,
            app=self._app,
            parent=self._parent,
            address=_ADDRESS,
            keys=self._keys,
            origin=self._origin,
        )

    async def run(
        self, task: Task[..., Any], envelope: Envelope, *, offload: Offload | None = None
    ) -> Awaited | None:
        """Run a job to its end, and return its outcome if it was asked for."""
        since_s = self._clock.monotonic_s()
        reply = await self._eager.run(task, envelope, offload=offload)
        receipt = Receipt(status=PublishStatus.CONFIRMED)
        self._tally.count_one(envelope, receipt, self._clock.monotonic_s() - since_s)
        if not envelope.reply:
            return None
        awaited = Awaited()
        awaited.arrive(reply)
        return awaited

    async def run_id(self, job: Job[object]) -> str:
        """Run a job to its end and return its id."""
        await self.run(*self.prepare(job))
        return job.id

    async def run_value(self, job: Job[object]) -> object:
        """Run a job to its end and return its value; raise as a handle's `result` does."""
        awaited = await self.run(*self.prepare(job.options(reply=True)))
        return await AsyncHandle(job, awaited).result()

    async def close(self) -> None:
        """Leave the queues' lifespans."""
        await self._eager.close()
