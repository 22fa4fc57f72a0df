"""What a lane counts: plain additions to cells that were looked up once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.outcomes import HandedBack, Outcome, Retried
from taskyard.workers.handler import UNKNOWN_TASK, Handler, outcome_cells

if TYPE_CHECKING:
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.metrics import Metrics


class LaneMeters:
    """The numbers of one queue in this process."""

    __slots__ = ("_lost", "_superseded", "_total_s", "_unknown", "_wait_s")

    def __init__(self, metrics: Metrics, queue: str) -> None:
        """Look the cells of `queue` up."""
        self._wait_s = metrics.histogram("job_wait_seconds", queue)
        self._total_s = metrics.histogram("job_total_seconds", queue)
        self._unknown = outcome_cells(metrics, queue, UNKNOWN_TASK)
        self._lost = metrics.count("deliveries_lost", queue)
        self._superseded = metrics.count("superseded", queue)

    def started(self, envelope: Envelope, now_ms: int) -> None:
        """Count an attempt that starts."""
        if due_ms := envelope.not_before_ms or envelope.enqueued_ms:  # `due_ms`, in line
            self._wait_s.observe(max(now_ms - due_ms, 0) / 1000)

    def ended(
        self,
        handler: Handler,
        envelope: Envelope,
        outcome: Outcome,
        *,
        started_ms: int,
        now_ms: int,
    ) -> None:
        """Count an attempt that ended; the job's whole time where it ended with it."""
        handler.finished[type(outcome)].value += 1
        handler.run_seconds.observe(max(now_ms - started_ms, 0) / 1000)
        if envelope.enqueued_ms is not None and not isinstance(outcome, (Retried, HandedBack)):
            self._total_s.observe(max(now_ms - envelope.enqueued_ms, 0) / 1000)

    def refused(self, handler: Handler | None, outcome: Outcome) -> None:
        """Count a delivery that was not run."""
        cells = self._unknown if handler is None else handler.finished
        cells[type(outcome)].value += 1

    def superseded(self) -> None:
        """Count a message that was given up because another of its job counts."""
        self._superseded.value += 1

    def lost(self) -> None:
        """Count a delivery that died with its connection."""
        self._lost.value += 1
