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
        for envelope, receipt in zip(envelopes, receipts, strict=True):
            self.count_one(envelope, receipt, seconds)

    def count_one(self, envelope: Envelope, receipt: Receipt, seconds: float) -> None:
        """Count one publish that took `seconds`."""
        key = (envelope.queue, envelope.task, receipt.status)
        cell = self._counts.get(key)
        if cell is None:
            cell = self._metrics.count(
                "jobs_published", envelope.queue, envelope.task, receipt.status.value
            )
            self._counts[key] = cell
        cell.value += 1
        histogram = self._seconds.get(envelope.queue)
        if histogram is None:
            histogram = self._metrics.histogram("publish_seconds", envelope.queue)
            self._seconds[envelope.queue] = histogram
        histogram.observe(seconds)
