"""Counts publishes by outcome and times them, at the cost of a few additions each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.shared.broker import PublishStatus, Receipt
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.metrics import Count, Histogram, Metrics


class Tally:
    """The publishing rows of the metrics table; used on one event loop."""

    def __init__(self, metrics: Metrics) -> None:
        """Count into `metrics`."""
        self._metrics = metrics
        self._counts: dict[tuple[str, str, PublishStatus], Count] = {}
        self._seconds: dict[str, Histogram] = {}

    def count(
        self, envelopes: Sequence[Envelope], receipts: Sequence[Receipt], seconds: float
    ) -> None:
        """Count publishes that took `seconds` together."""
        queue = task = status = None
        number = 0
        for envelope, receipt in zip(envelopes, receipts, strict=True):
            # Most are like the one before: they are counted together.
            if envelope.task != task or envelope.queue != queue or receipt.status is not status:
                if status is not None:
                    self._add(queue or "", task or "", status, number, seconds)
                queue, task, status, number = envelope.queue, envelope.task, receipt.status, 0
            number += 1
        if status is not None:
            self._add(queue or "", task or "", status, number, seconds)

    def count_one(self, envelope: Envelope, receipt: Receipt, seconds: float) -> None:
        """Count one publish that took `seconds`."""
        self._add(envelope.queue, envelope.task, receipt.status, 1, seconds)

    def _add(
        self, queue: str, task: str, status: PublishStatus, number: int, seconds: float
    ) -> None:
        key = (queue, task, status)
        cell = self._counts.get(key)
        if cell is None:
            cell = self._metrics.count("jobs_published", queue, task, status.value)
            self._counts[key] = cell
        cell.value += number
        histogram = self._seconds.get(queue)
        if histogram is None:
            histogram = self._metrics.histogram("publish_seconds", queue)
            self._seconds[queue] = histogram
        histogram.observe(seconds, number)
