"""The table of metrics, and what is shown of it."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskyard.shared.metrics import TABLE, Metrics

FORBIDDEN = {"pod", "job", "job_id", "tenant", "error", "host", "worker", "message"}
SUFFIXES = ("_total", "_created", "_bucket", "_count", "_sum")


def shown(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.expose().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_table_is_sound() -> None:
    """Names are unique, explained and without forbidden labels; histograms have buckets."""
    names = [definition.name for definition in TABLE]
    assert len(names) == len(set(names))
    for definition in TABLE:
        assert definition.help.endswith(".")
        assert not set(definition.labels) & FORBIDDEN
        assert bool(definition.buckets) == (definition.kind == "histogram")
        assert list(definition.buckets) == sorted(definition.buckets)
        assert not definition.name.endswith(SUFFIXES)


def test_everything_of_the_table_is_shown() -> None:
    """Each row, once counted, is in the exposition under its name, and parses."""
    metrics = Metrics()
    for definition in TABLE:
        values = [f"<{label}>" for label in definition.labels]
        if definition.kind == "histogram":
            metrics.histogram(definition.name, *values).observe(0.2)
        else:
            metrics.count(definition.name, *values).add(3)
    found = shown(metrics)
    for definition in TABLE:
        labels = tuple(sorted((label, f"<{label}>") for label in definition.labels))
        name = f"taskyard_{definition.name}"
        if definition.kind == "histogram":
            assert found[f"{name}_count", labels] == 1
            assert found[f"{name}_sum", labels] == pytest.approx(0.2)
        else:
            assert found[f"{name}_total" if definition.kind == "counter" else name, labels] == 3


def test_buckets_are_cumulative() -> None:
    """A value on a border counts into its bucket, and the last bucket holds everything."""
    metrics = Metrics()
    histogram = metrics.histogram("publish_seconds", "mail")
    for seconds in (0.0005, 0.001, 0.002, 99.0):
        histogram.observe(seconds)
    found = shown(metrics)

    def bucket(bound: str) -> float:
        labels = (("le", bound), ("queue", "mail"))
        return found["taskyard_publish_seconds_bucket", labels]

    assert (bucket("0.001"), bucket("0.0025"), bucket("10.0"), bucket("+Inf")) == (2, 3, 3, 4)


def test_label_values_are_escaped() -> None:
    """A foreign task name cannot break the exposition."""
    metrics = Metrics()
    wild = 'a"b\\c\nd'
    metrics.count("jobs_published", "mail", wild, "confirmed").add()
    labels = (("outcome", "confirmed"), ("queue", "mail"), ("task", wild))
    assert shown(metrics)["taskyard_jobs_published_total", labels] == 1


def test_cells_are_kept() -> None:
    """A cell asked for again is the same; wrong labels are a mistake in the program."""
    metrics = Metrics()
    assert metrics.count("slots", "mail") is metrics.count("slots", "mail")
    with pytest.raises(ValueError, match="slots"):
        metrics.count("slots")
    with pytest.raises(KeyError):
        metrics.count("nonsense")


def test_what_is_forgotten_is_gone() -> None:
    """A queue that is gone is not shown for ever."""
    metrics = Metrics()
    metrics.count("slots", "mail").set(4)
    metrics.forget("slots", "mail")
    assert not shown(metrics)


def test_probes_run_before_each_scrape() -> None:
    """Gauges that are asked for are asked when scraped."""
    metrics = Metrics()
    values = iter((1, 2))
    metrics.on_scrape(lambda: metrics.count("broker_connected").set(next(values)))
    assert [shown(metrics)["taskyard_broker_connected", ()] for _ in range(2)] == [1, 2]


def test_any_number_is_shown() -> None:
    """Numbers that are none, or have no end, are written as Prometheus reads them."""
    metrics = Metrics()
    for queue, value in {"a": math.inf, "b": -math.inf, "c": math.nan, "d": 12345678.5}.items():
        metrics.count("slots", queue).set(value)
    found = {labels[0][1]: value for (_, labels), value in shown(metrics).items()}
    assert math.isnan(found.pop("c"))
    assert found == {"a": math.inf, "b": -math.inf, "d": 12345678.5}
