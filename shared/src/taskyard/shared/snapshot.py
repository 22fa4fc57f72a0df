"""A process's metrics at one moment, as data; and how those of several processes become one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from taskyard.shared.metrics import BY_NAME, Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from taskyard.shared.metrics import Combine


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """A counter or gauge."""

    name: str
    labels: tuple[str, ...]
    value: float


class Observed(msgspec.Struct, frozen=True, array_like=True):
    """A histogram: observations per bucket, and their sum."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total: float


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """See the module's docstring."""

    counted: tuple[Counted, ...] = ()
    observed: tuple[Observed, ...] = ()


_COMBINE: Final[dict[Combine, Callable[[float, float], float]]] = {
    "sum": lambda one, other: one + other,
    "min": min,
    "max": max,
}


def take_snapshot(metrics: Metrics) -> Snapshot:
    """Return what a process has counted so far."""
    return Snapshot(
        counted=tuple(Counted(name, labels, cell.value) for name, labels, cell in metrics.counts()),
        observed=tuple(
            Observed(name, labels, tuple(cell.counts), cell.total)
            for name, labels, cell in metrics.histograms()
        ),
    )


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the numbers of several processes as those of one.

    Counters and histograms are added; gauges are combined as the table of metrics says.
    """
    counted: dict[tuple[str, tuple[str, ...]], float] = {}
    observed: dict[tuple[str, tuple[str, ...]], Observed] = {}
    for snapshot in snapshots:
        for one in snapshot.counted:
            key = one.name, one.labels
            combine = _COMBINE[BY_NAME[one.name].combine]
            counted[key] = combine(counted[key], one.value) if key in counted else one.value
        for many in snapshot.observed:
            key = many.name, many.labels
            observed[key] = _added(observed[key], many) if key in observed else many
    return Snapshot(
        counted=tuple(Counted(*key, value) for key, value in counted.items()),
        observed=tuple(observed.values()),
    )


def totals(snapshot: Snapshot) -> Snapshot:
    """Return what of a process outlives it: its counters and histograms, not its gauges."""
    return Snapshot(
        counted=tuple(one for one in snapshot.counted if BY_NAME[one.name].kind == "counter"),
        observed=snapshot.observed,
    )


def expose(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus' text format."""
    metrics = Metrics()
    for one in snapshot.counted:
        metrics.count(one.name, *one.labels).value = one.value
    for many in snapshot.observed:
        cell = metrics.histogram(many.name, *many.labels)
        cell.counts, cell.total = list(many.counts), many.total
    return metrics.expose()


def _added(one: Observed, other: Observed) -> Observed:
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Observed(one.name, one.labels, counts, one.total + other.total)
