"""What the lanes of one worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.broker import Broker
    from taskyard.shared.clock import Clock
    from taskyard.shared.keyring import KeyRing
    from taskyard.shared.metrics import Metrics
    from taskyard.shared.retry import Random
    from taskyard.shared.task import KeptOutput
    from taskyard.workers.children import Children
    from taskyard.workers.commit import Committer
    from taskyard.workers.deadlines import Deadlines
    from taskyard.workers.intents import ControlFollower
    from taskyard.workers.recall import Recall
    from taskyard.workers.threads import Threads


class Budget:
    """How many attempts the worker may still start; `spent` is called when none is left."""

    __slots__ = ("_spent", "left")

    def __init__(self, jobs: int | None, spent: Callable[[], None]) -> None:
        """Allow `jobs` attempts; None: any number."""
        self.left = jobs
        self._spent = spent

    def take(self) -> bool:
        """Take one, if there is one."""
        if self.left is None:
            return True
        if self.left <= 0:
            return False
        self.left -= 1
        if not self.left:
            self._spent()
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Machinery:
    """See the module's docstring.

    Attributes:
        name: of this worker, as records carry it (`host:pid`).
        concurrency: slots of a queue that declares none.
        keys: for encrypted arguments.
        draining: the worker ends when its queues are empty.
        modules: import paths that the queues were found in; empty: where their tasks are from.
        output: whose output is kept where the queue does not say.
        output_limit: most bytes of one attempt's.
        max_rss_bytes: resident memory after a job above which a child process is replaced.

    """

    name: str
    concurrency: int
    draining: bool
    modules: tuple[str, ...]
    max_rss_bytes: int | None
    output: KeptOutput
    output_limit: int
    broker: Broker
    clock: Clock
    rng: Random
    keys: KeyRing
    metrics: Metrics
    committer: Committer
    recall: Recall
    follower: ControlFollower
    deadlines: Deadlines
    threads: Threads
    children: Children
    budget: Budget
