"""What a worker shows of itself when asked: gauges for a scrape, signs for a probe.

Called from the health server's threads, so it reads single numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.workers.memory import resident_bytes
from taskyard.workers.pulse import BEAT_S
from taskyard.workers.signs import LaneSigns, Signs

if TYPE_CHECKING:
    from taskyard.shared.clock import Clock
    from taskyard.workers.lane import Lane
    from taskyard.workers.worker import Worker


def show_gauges(worker: Worker) -> None:
    """Have the worker's gauges set before each scrape."""
    metrics = worker.metrics
    connected, blocked = metrics.count("broker_connected"), metrics.count("broker_blocked")
    metrics.count("broker_reconnects")
    cells = [
        (
            lane,
            metrics.count("jobs_running", name),
            metrics.count("slots", name),
            metrics.count("queue_paused", name),
            metrics.count("threads_abandoned", name),
        )
        for name, lane in worker.lanes.items()
    ]

    resident = metrics.count("resident_bytes")

    def probe() -> None:
        resident.set(resident_bytes() or 0)
        connected.set(int(worker.broker.connected))
        blocked.set(int(worker.broker.blocked))
        for lane, running, slots, paused, abandoned in cells:
            running.set(len(lane.running))
            slots.set(lane.slots)
            paused.set(int(lane.paused))
            abandoned.set(lane.executor.abandoned_threads)

    metrics.on_scrape(probe)


def signs_of(worker: Worker, clock: Clock) -> Signs:
    """Return the worker as it is now."""
    now_s = clock.monotonic_s()
    return Signs(
        lag_s=max(now_s - worker.pulse.last_s - BEAT_S, 0.0),
        connected=worker.broker.connected,
        blocked=worker.broker.blocked,
        control_ready=worker.follower.ready.is_set(),
        control_problem=worker.follower.problem,
        stopping=worker.signals.stop.is_set(),
        holding=worker.holding,
        lanes=tuple(_signs_of(worker, lane, now_s) for lane in list(worker.lanes.values())),
    )


def _signs_of(worker: Worker, lane: Lane, now_s: float) -> LaneSigns:
    since_s = lane.intake.absent_since_s
    return LaneSigns(
        queue=lane.queue.name,
        paused=lane.paused,
        present=lane.intake.present,
        absent_s=0.0 if since_s is None else now_s - since_s,
        absence=lane.intake.absence,
        starved_s=worker.watchdog.starved_s(lane.queue.name, now_s),
        running=len(lane.running),
        slots=lane.slots,
        stuck=lane.executor.abandoned_threads + lane.executor.abandoned_tasks,
        problem=lane.problem or lane.intake.problem,
    )
