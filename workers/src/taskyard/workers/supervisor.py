"""`taskyard worker --processes N`: N worker processes, started again when they end, seen as one."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import LockLost
from taskyard.shared.health import HealthServer
from taskyard.shared.logs import get_logger
from taskyard.shared.metrics import Metrics
from taskyard.shared.orders import Orders, ToldToStop
from taskyard.shared.snapshot import Snapshot, expose, merge, take_snapshot, totals
from taskyard.workers.group import GroupSigns, why_group_dead, why_group_not_ready
from taskyard.workers.member import Member
from taskyard.workers.memory import resident_bytes
from taskyard.workers.process import opened
from taskyard.workers.succession import End, GiveUp, Rest, after, code_of

if TYPE_CHECKING:
    from collections.abc import Collection

    import click

    from taskyard.shared.settings import Settings
    from taskyard.workers.singleton import Lock

_log = get_logger(__name__)

#: Seconds beyond the grace after which a process that was told to end is killed: what a worker
#: needs to hand back and flush, and less than what Compose and the chart add to the grace.
MARGIN_S: Final = 18.0
#: Seconds between two looks at the processes.
LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What is to run.

    Attributes:
        command: arguments of `taskyard` for each process.
        processes: how many.
        grace_s: of each process, in seconds.
        max_time_s: when the group begins to stop, in seconds.
        singleton: the lock of the group; None: it needs none.

    """

    command: tuple[str, ...]
    processes: int
    grace_s: float
    max_time_s: float | None = None
    singleton: str | None = None


def command_line(ctx: click.Context, *, without: Collection[str]) -> tuple[str, ...]:
    """Return the arguments that a command was called with, some options left out.

    What came from variables is among them, so that a process does what its supervisor was told.
    """
    options: list[str] = []
    arguments: list[str] = []
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if parameter.name in without or value is None or value is False:
            continue
        if parameter.param_type_name == "argument":
            arguments += value
        else:
            options += [parameter.opts[0], *(() if value is True else (str(value),))]
    return (ctx.command.name or "", *options, "--", *arguments)


async def supervise(group: Group, settings: Settings) -> int:
    """Run a group until it is stopped or has nothing left to do, and return its exit code.

    Raises:
        AlreadyRunning: another holds the group's lock.
        ConfigurationError: the port is taken, or a setting is wrong.
        LockLost: the group stopped because its lock cannot be relied on any more.
        Unavailable: a lock is wanted, and the broker is not there.

    """
    with Orders() as orders, suppress(ToldToStop):
        if group.singleton is None:
            return await _serve(Supervisor(group), settings, orders)
        async with opened(settings, "supervisor", group.singleton, orders) as (_, lock):
            return await _serve(Supervisor(group, lock), settings, orders)
    return 0  # told to stop before it had begun


async def _serve(supervisor: Supervisor, settings: Settings, orders: Orders) -> int:
    health = HealthServer(
        settings.metrics_host,
        settings.metrics_port,
        signs=supervisor.signs,
        metrics=supervisor.expose,
        dead=why_group_dead,
        unready=why_group_not_ready,
    )
    _log.info("health server listens", host=settings.metrics_host, port=health.port)
    try:
        return await supervisor.run(orders)
    finally:
        health.close()


class Supervisor:
    """Keeps the processes of a group."""

    def __init__(self, group: Group, lock: Lock | None = None) -> None:
        """Prepare to run a group, below its lock if it has one."""
        self._group = group
        self._lock = lock
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._resident = self._metrics.count("resident_bytes")
        self._kept = Snapshot()
        self._members = [
            Member(
                number,
                group.command,
                patience_s=group.grace_s + MARGIN_S,
                clock=self._clock,
            )
            for number in range(1, group.processes + 1)
        ]
        self._stop = asyncio.Event()
        self._proven = False
        self._codes: list[int] = []
        self._gave_up: int | None = None
        self._lost: str | None = None
        self._moved_s = self._clock.monotonic_s()

    async def run(self, orders: Orders) -> int:
        """Run until all processes have ended for good; return the exit code.

        Args:
            orders: tell it to stop.

        Raises:
            LockLost: the lock of the group was lost.

        """
        loop = asyncio.get_running_loop()
        timer = None
        if self._group.max_time_s is not None:
            timer = loop.call_later(self._group.max_time_s, self._time_is_over)
        places = [
            loop.create_task(self._keep(member), name=f"place {member.number}")
            for member in self._members
        ]
        background = [loop.create_task(self._look(), name="look")]
        if self._lock is not None:
            background.append(loop.create_task(self._watch(self._lock), name="lock"))
        _log.info("supervisor started", processes=len(places))
        orders.pass_to(self.stop)
        try:
            await self._until_ended(places)
        finally:
            for task in (*background, *places):
                task.cancel()
            await asyncio.gather(*background, *places, return_exceptions=True)
            if timer is not None:
                timer.cancel()
        return self._result()

    def stop(self, reason: str) -> None:
        """Tell all processes to stop; said again, to stop at once."""
        again = self._stop.is_set()
        if not again:
            _log.info("supervisor stops", reason=reason)
        self._stop.set()
        for member in self._members:
            # Two equal signals may become one; a worker takes either as well.
            member.signal(signal.SIGINT if again else signal.SIGTERM)

    def signs(self) -> GroupSigns:
        """Return the group as it is now."""
        return GroupSigns(
            lag_s=max(self._clock.monotonic_s() - self._moved_s - LOOK_S, 0.0),
            stopping=self._stop.is_set(),
            members=tuple(member.signs() for member in self._members),
        )

    def expose(self) -> bytes:
        """Return the metrics of all processes as those of one, in Prometheus' text format."""
        self._resident.set(resident_bytes() or 0)
        # What ended is read last: it may be counted twice for a moment, but never forgotten.
        reports = [member.report for member in self._members]
        living = [report.metrics for report in reports if report is not None]
        return expose(merge([*living, take_snapshot(self._metrics), self._kept]))

    # the processes

    async def _keep(self, member: Member) -> None:
        """Have a process in one place, until its work is done or the group ends."""
        failures = 0
        while not self._stop.is_set():
            guard = None if self._lock is None else self._lock.guard
            end = await member.run(
                fresh_s=None if guard is None else guard.fresh_s,
                confirmed_s=None if guard is None else guard.confirmed_s,
            )
            self._bury(member)
            if self._stop.is_set():
                # One that had not begun to listen to signals had not begun to work.
                self._codes.append(0 if end.code == -signal.SIGTERM else end.code)
                return
            step = after(replace(end, failures=failures, proven=self._proven))
            if isinstance(step, Rest):
                member.resting = True
                self._codes.append(end.code)
                return
            if isinstance(step, GiveUp):
                self._give_up(step.code)
                return
            failures = step.failures
            self._tell(end, step.delay_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(step.delay_s):
                    await self._stop.wait()

    def _bury(self, member: Member) -> None:
        """Keep what an ended process has counted."""
        if member.report is not None:
            kept = merge([self._kept, totals(member.report.metrics)])
            member.report = None
            self._kept = kept

    def _tell(self, end: End, delay_s: float) -> None:
        why = "recycled" if end.code == 0 else "failed"
        self._metrics.count("process_restarts", why).add()
        say = _log.info if end.code == 0 else _log.error
        say(
            "a process ended and is started again",
            exit_code=end.code,
            uptime_s=round(end.uptime_s, 1),
            in_s=delay_s,
        )

    def _give_up(self, code: int) -> None:
        if self._gave_up is None:
            _log.error("no process can work like this: the group ends", exit_code=code)
            self._gave_up = code
        self.stop("a process cannot start")

    async def _look(self) -> None:
        while True:
            self._moved_s = self._clock.monotonic_s()
            if not self._stop.is_set():
                for member in self._members:
                    member.mind()
            self._proven = self._proven or any(
                member.report is not None and not member.report.unready for member in self._members
            )
            await asyncio.sleep(LOOK_S)

    async def _watch(self, lock: Lock) -> None:
        def told(at_s: float) -> None:
            for member in self._members:
                member.confirm(at_s)

        self._lost = await lock.keep(told)
        _log.error("the group stops at once", why=self._lost)
        self.stop("lock lost")
        self.stop("lock lost")

    # the end

    def _time_is_over(self) -> None:
        if not self._stop.is_set():
            self.stop("its time is over")

    async def _until_ended(self, places: list[asyncio.Task[None]]) -> None:
        """Wait for all processes; those that do not end in time are killed."""
        ended = asyncio.gather(*places)
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            waited: set[asyncio.Future[Any]] = {ended, stop}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait({ended}, timeout=self._group.grace_s + MARGIN_S)
            for member in self._members:
                member.signal(signal.SIGKILL)
            await ended
        finally:
            stop.cancel()

    def _result(self) -> int:
        if self._lost is not None:
            raise LockLost(f"{self._lost}; the group stopped, and handed back what it ran")
        if self._gave_up is not None:
            return self._gave_up
        return code_of(self._codes)
