"""Tasks written as classes (ZS-01, ZS-03)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime

import pytest

from support.workbench import Workbench
from taskyard.producer import Producer
from taskyard.shared import ConfigurationError, Context, InvalidArguments, Job, Queue, Work
from taskyard.shared.settings import Settings

queue: Queue[object] = Queue("works")
seen: list[tuple[object, Mapping[str, object]]] = []


class Tenant(Work[object]):
    """What several tasks share."""

    tenant: str = "acme"


class Greet(Tenant, queue=queue, ttr="5m"):
    """Greet somebody."""

    x: int
    when: datetime | None = None
    tags: list[str] = field(default_factory=list)
    cache: dict[str, int] = field(init=False, default_factory=dict)

    @property
    def double(self) -> int:
        return self.x * 2

    async def run(self, ctx: Context) -> str:
        seen.append((self, ctx.args))
        return f"{self.tenant} {self.double}"


class Count(Work[int], queue=queue, name="count"):
    words: tuple[str, ...]

    def run(self, ctx: Context) -> int:
        return len(self.words)


def test_fields_travel_as_json() -> None:
    """ZS-01: three lines declare it; its fields are the job's arguments, as JSON."""
    job = Greet(x=1, when=datetime(2030, 1, 2, tzinfo=UTC)).job()
    assert (job.queue, job.task) == ("works", "works.Greet")
    assert json.loads(job.body) == {
        "tenant": "acme",
        "x": 1,
        "when": "2030-01-02T00:00:00Z",
        "tags": [],
    }
    assert queue.find("Greet").ttr_s == 300
    assert (queue.find("Greet").mode, queue.find("count").mode) == ("async", "thread")


def test_what_changes_later_is_not_seen() -> None:
    """ZS-03: a job is a snapshot, down to what its fields hold; each is a job of its own."""
    greet = Greet(x=1, tags=["a"])
    first = greet.job()
    greet.x, greet.tags[0] = 2, "b"
    second = greet.job()
    assert json.loads(first.body)["x"] == 1
    assert json.loads(first.body)["tags"] == ["a"]
    assert json.loads(second.body)["x"] == 2
    assert first.id != second.id


def test_it_runs_with_its_fields() -> None:
    """ZS-01: the worker makes an instance, with its properties and types, and calls `run`."""
    seen.clear()
    with Producer(settings=Settings(mode="eager")) as producer:
        sent = Greet(x=4, when=datetime(2030, 1, 2, tzinfo=UTC)).job().options(reply=True)
        assert producer.send(sent).result() == "acme 8"
        by_name: Job[object] = Job(queue="works", task="Greet", args={"x": 1}, reply=True)
        assert producer.send(by_name).result() == "acme 2"
        assert producer.send(Count(words=("a", "b")).job().options(reply=True)).result() == 2
    (instance, args), _ = seen
    assert isinstance(instance, Greet)
    assert instance.when == datetime(2030, 1, 2, tzinfo=UTC)
    assert args["x"] == 4


async def test_it_runs_in_a_worker(tmp_path) -> None:
    """ZS-01: `MyJob(x=1)` sent: its arguments are `{"x": 1}`, and later it has succeeded."""
    own: Queue[object] = Queue("own")

    class MyJob(Work[int], queue=own):
        x: int

        async def run(self, ctx: Context) -> int:
            return self.x

    from support.eventually import eventually

    async with Workbench(own, folder=tmp_path) as bench:
        await bench.worker()
        job = MyJob(x=1).job()
        assert json.loads(job.body) == {"x": 1}
        (job_id,) = await bench.send(job)

        async def outcomes():
            return [r.outcome for r in await bench.records(job_id) if r.event == "finished"]

        assert await eventually(outcomes) == ["succeeded"]


def test_types_are_checked_when_it_is_sent() -> None:
    """B-28: a field's value that does not fit its type is refused, as a function's argument is."""
    wrong: dict[str, object] = {"x": "1"}
    with pytest.raises(InvalidArguments, match="works.Greet"):
        Greet(**wrong).job()  # type: ignore[arg-type]


def test_what_cannot_be_declared() -> None:
    """A class without a queue is a base of others; fields must not hide what it does."""
    with pytest.raises(ConfigurationError, match="has no queue"):
        Tenant().job()
    with pytest.raises(ConfigurationError, match="must not be named run"):

        class Bad(Work[int], queue=queue):
            run: int  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match="two tasks named 'count'"):

        class Count2(Work[int], queue=queue, name="count"):
            pass
