"""The name of every exchange, queue and stream, once, from one prefix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from taskyard.shared.broker import ORPHANS
from taskyard.shared.errors import ConfigurationError

#: AMQP 0-9-1 carries names and routing keys as short strings.
MAX_NAME_BYTES: Final = 255

DEFAULT_PREFIX: Final = "taskyard"


@dataclass(frozen=True)
class Names:
    """Names under a prefix (the namespace); queue names have no dots, so none can collide.

    Not slotted: the names that are used per job are computed once and kept.
    """

    prefix: str = DEFAULT_PREFIX

    # jobs on their way

    @cached_property
    def tasks(self) -> str:
        """Exchange (direct, key = queue) to the work queues."""
        return f"{self.prefix}.tasks"

    @cached_property
    def known(self) -> str:
        """Exchange (direct, key = queue) and sink that say whether a queue exists."""
        return f"{self.prefix}.known"

    @cached_property
    def draining(self) -> str:
        """Routing key at `known` that leads to its sink while operators want nothing new.

        No queue can be called so.
        """
        return "@draining"

    @cached_property
    def delay_deliver(self) -> str:
        """Exchange where delayed jobs leave the ladder, for the work queues."""
        return f"{self.prefix}.delay.deliver"

    def delay_level(self, level: int) -> str:
        """Exchange (topic) in front of one level of the ladder."""
        return f"{self.prefix}.delay.{level:02d}"

    def delay_hold(self, level: int, digit: int) -> str:
        """Queue that holds jobs for one digit at one level, and exchange (fanout) to enter there."""
        return f"{self.prefix}.delay.{level:02d}.{digit}"

    def work_queue(self, queue: str) -> str:
        """Queue that workers of `queue` consume."""
        return _bounded(f"{self.prefix}.q.{queue}")

    def queue_of(self, work_queue: str) -> str | None:
        """Return the queue that a work queue belongs to; None for any other name."""
        head = f"{self.prefix}.q."
        return work_queue.removeprefix(head) if work_queue.startswith(head) else None

    @cached_property
    def waiting(self) -> str:
        """Queue of jobs that wait for predecessors."""
        return f"{self.prefix}.waiting"

    # jobs put aside

    @cached_property
    def parked(self) -> str:
        """Exchange (direct, key = queue) to the parking lots."""
        return f"{self.prefix}.parked"

    def parked_queue(self, queue: str) -> str:
        """Parking lot of `queue`; that of `ORPHANS` is the orphans' queue."""
        if queue == ORPHANS:
            return self.orphaned
        return _bounded(f"{self.prefix}.parked.{queue}")

    @cached_property
    def orphaned(self) -> str:
        """Exchange and queue for jobs whose queue does not exist (any more)."""
        return f"{self.prefix}.orphaned"

    # what happened, and what is to happen

    @cached_property
    def lifecycle(self) -> str:
        """Exchange (topic, key = queue) for outcomes."""
        return f"{self.prefix}.lifecycle"

    @cached_property
    def ledger(self) -> str:
        """Queue of the lifecycle feed."""
        return f"{self.prefix}.ledger"

    @cached_property
    def control(self) -> str:
        """Exchange and stream of the control log."""
        return f"{self.prefix}.control"

    @cached_property
    def replies(self) -> str:
        """Exchange (direct, key = process) to whoever waits for a result."""
        return f"{self.prefix}.replies"

    def reply_queue(self, address: str, generation: int) -> str:
        """Queue of replies to one process, on one of its connections."""
        return f"{self.prefix}.reply.{address}.{generation}"

    @cached_property
    def events(self) -> str:
        """Exchange (topic) for events with many listeners."""
        return f"{self.prefix}.events"

    def lock(self, name: str) -> str:
        """Exclusive queue that is the lock `name`."""
        return _bounded(f"{self.prefix}.lock.{name}")


def _bounded(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES:
        msg = f"the name {name!r} is longer than the {MAX_NAME_BYTES} bytes that RabbitMQ allows"
        raise ConfigurationError(msg)
    return name
