"""Every metric in one table, and cells that cost nanoseconds on the per-job path.

prometheus-client's own counters and histograms take a lock per observation; here a job adds to
plain numbers owned by the event loop, which are written out when scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from taskyard.shared import exposition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Kind = Literal["counter", "gauge", "histogram"]
Combine = Literal["sum", "min", "max"]

_WAIT: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
    600,
    1800,
    3600,
)
_RUN: Final = (
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    600,
    1800,
    3600,
)
_PUBLISH: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric: its name without the prefix, what it is, its labels and buckets (seconds).

    `combine` is how the gauges of several processes become one; counters and histograms are summed.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    combine: Combine = "sum"


#: The table. Labels never hold a pod, job, tenant or raw error text.
TABLE: Final[tuple[Definition, ...]] = (
    Definition("jobs_published", "counter", "Publishes by outcome.", ("queue", "task", "outcome")),
    Definition(
        "jobs_finished", "counter", "Attempts ended, by outcome.", ("queue", "task", "outcome")
    ),
    Definition("job_wait_seconds", "histogram", "From due to start.", ("queue",), _WAIT),
    Definition("job_run_seconds", "histogram", "From start to end.", ("queue", "task"), _RUN),
    Definition("job_total_seconds", "histogram", "From first sent to end.", ("queue",), _WAIT),
    Definition("jobs_running", "gauge", "Attempts running now.", ("queue",)),
    Definition("slots", "gauge", "Attempts that may run at once in this process.", ("queue",)),
    Definition(
        "queue_jobs", "gauge", "Jobs in the broker by state.", ("queue", "state"), combine="max"
    ),
    Definition(
        "queue_oldest_seconds", "gauge", "Age of the oldest ready job.", ("queue",), combine="max"
    ),
    Definition("queue_paused", "gauge", "1 while the queue is paused.", ("queue",), combine="max"),
    Definition(
        "parked_jobs",
        "gauge",
        "Jobs in the parking lot by reason.",
        ("queue", "reason"),
        combine="max",
    ),
    Definition("publish_seconds", "histogram", "From send to confirm.", ("queue",), _PUBLISH),
    Definition("broker_connected", "gauge", "1 while the broker is reachable.", combine="min"),
    Definition("broker_blocked", "gauge", "1 while the broker refuses publishes.", combine="max"),
    Definition("broker_reconnects", "counter", "Connections made again after a loss."),
    Definition(
        "consumers_renewed",
        "counter",
        "Consumers opened anew because they got nothing while jobs were ready.",
        ("queue",),
    ),
    Definition("unrecorded", "counter", "Outcomes that never reached the feed."),
    Definition("feed_dropped", "counter", "Feed items dropped by its bound."),
    Definition(
        "ledger_items", "counter", "Feed items written to the ledger, or skipped.", ("kind",)
    ),
    Definition(
        "ledger_lag_seconds",
        "gauge",
        "How old what the ledger writes now is; 0 with nothing to write.",
        combine="max",
    ),
    Definition("ledger_connected", "gauge", "1 while the ledger takes writes.", combine="min"),
    Definition(
        "ledger_pruned", "counter", "Jobs that retention took out of the ledger.", ("state",)
    ),
    Definition(
        "ledger_missing_jobs",
        "gauge",
        "Jobs that the broker has lost, at least, as far as the ledger can tell.",
        ("queue",),
        combine="max",
    ),
    Definition("loop_lag_seconds", "histogram", "How late the event loop runs.", (), _LAG),
    Definition("schedule_lag_seconds", "histogram", "How late schedules fire.", (), _WAIT),
    Definition("outbox_pending", "gauge", "Jobs not yet handed to the broker.", combine="max"),
    Definition(
        "threads_abandoned", "gauge", "Threads still busy with a job whose time was up.", ("queue",)
    ),
    Definition("resident_bytes", "gauge", "Memory that the worker holds."),
    Definition("process_restarts", "counter", "Worker processes started again, by why.", ("why",)),
    Definition(
        "superseded",
        "counter",
        "Messages given up unrun: their job was changed, and another counts.",
        ("queue",),
    ),
    Definition(
        "deliveries_lost", "counter", "Deliveries that died with their connection.", ("queue",)
    ),
)

PREFIX: Final = "taskyard_"
BY_NAME: Final = {definition.name: definition for definition in TABLE}


class Count:
    """A counter's or gauge's number for one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Add to it."""
        self.value += amount

    def set(self, value: float) -> None:
        """Set it (gauges only)."""
        self.value = value


class Histogram:
    """Observations of one set of labels, counted per bucket."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, number: int = 1) -> None:
        """Count an observation, or several of the same."""
        self.counts[bisect_left(self._bounds, seconds)] += number
        self.total += seconds * number


class Metrics:
    """A process's numbers. Ask once per label set, keep the cell, and add to it."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._counts: dict[str, dict[tuple[str, ...], Count]] = {}
        self._histograms: dict[str, dict[tuple[str, ...], Histogram]] = {}
        self._probes: list[Callable[[], None]] = []

    def count(self, name: str, *labels: str) -> Count:
        """Return the cell of a counter or gauge for these label values, in the table's order."""
        _check(name, labels)
        return self._counts.setdefault(name, {}).setdefault(labels, Count())

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Return the cell of a histogram for these label values, in the table's order."""
        definition = _check(name, labels)
        cells = self._histograms.setdefault(name, {})
        if labels not in cells:
            cells[labels] = Histogram(definition.buckets)
        return cells[labels]

    def forget(self, name: str, *labels: str) -> None:
        """Drop a cell whose subject is gone."""
        self._counts.get(name, {}).pop(labels, None)

    def on_scrape(self, probe: Callable[[], None]) -> None:
        """Have `probe` called before each scrape, to set gauges."""
        self._probes.append(probe)

    def counts(self) -> Iterator[tuple[str, tuple[str, ...], Count]]:
        """Yield the cells of counters and gauges, the gauges set for the occasion."""
        for probe in self._probes:
            probe()
        for name, cells in list(self._counts.items()):
            for labels, cell in list(cells.items()):
                yield name, labels, cell

    def histograms(self) -> Iterator[tuple[str, tuple[str, ...], Histogram]]:
        """Yield the cells of histograms."""
        for name, cells in list(self._histograms.items()):
            for labels, cell in list(cells.items()):
                yield name, labels, cell

    def expose(self) -> bytes:
        """Return the metrics of the table that have cells, in Prometheus' text format."""
        for probe in self._probes:
            probe()
        return "".join(line for definition in TABLE for line in self._lines(definition)).encode()

    def _lines(self, definition: Definition) -> Iterator[str]:
        name, labels = PREFIX + definition.name, definition.labels
        name += "_total" if definition.kind == "counter" else ""
        counts = list(self._counts.get(definition.name, {}).items())
        histograms = list(self._histograms.get(definition.name, {}).items())
        if counts or histograms:
            yield from exposition.heading(name, definition.kind, definition.help)
        for values, count in counts:
            yield exposition.sample(name, labels, values, count.value)
        for values, cell in histograms:
            yield from exposition.histogram(
                name,
                labels,
                values,
                bounds=definition.buckets,
                counts=cell.counts,
                total=cell.total,
            )


def _check(name: str, labels: tuple[str, ...]) -> Definition:
    definition = BY_NAME[name]
    if len(labels) != len(definition.labels):
        msg = f"metric {name} has the labels {definition.labels}, got {labels}"
        raise ValueError(msg)
    return definition
