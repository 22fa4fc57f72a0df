"""What an operator does with the command line, on every broker, seen from outside."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.amqp_site import NOWHERE, browse, jobs, on_disk, park, publish
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.ports import free_port
from support.rabbitmq import Server
from taskyard.shared.broker import Broker, BrokerOptions
from taskyard.shared.brokers import connect
from taskyard.shared.envelope import Envelope
from taskyard.shared.intents import Intents

DECLARATIONS = """
from taskyard.shared import Queue

checkout = Queue("checkout")
mail = Queue("mail")
"""


class Operator:
    """Runs commands against one broker and looks at it with a handle of its own."""

    def __init__(self, target: BrokerUnderTest, start: StartTaskyard, folder: Path) -> None:
        self.target = target
        self.folder = folder
        self._start = start
        self._handles: list[Broker] = []
        (folder / "shop.py").write_text(DECLARATIONS)

    async def open(self) -> Broker:
        """Return an open handle."""
        options = BrokerOptions(management_url=self.target.management_url)
        handle = connect(self.target.url, options)
        await handle.open()
        self._handles.append(handle)
        return handle

    async def close(self) -> None:
        """Close all handles."""
        for handle in self._handles:
            await handle.close()

    def env(self) -> dict[str, str]:
        """Return the environment of a command."""
        management_url = self.target.management_url
        return {
            "TASKYARD_BROKER_URL": self.target.url,
            "PYTHONPATH": str(self.folder),
            **({"TASKYARD_MANAGEMENT_URL": management_url} if management_url else {}),
        }

    def start(self, *arguments: str) -> Any:
        """Start a command."""
        return self._start(*arguments, env=self.env(), cwd=self.folder)

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; return what it printed."""
        program = self.start(*arguments)
        assert await program.wait_exit(within=60) == code, program.output
        assert "Traceback" not in program.output
        return program.output

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with `--json`; return what it printed."""
        return json.loads(await self.run(*arguments, "--json", code=code))


@pytest.fixture
async def operator(
    broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> AsyncIterator[Operator]:
    """The operator of a fresh broker."""
    made = Operator(broker_url, taskyard, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def rabbit_operator(
    amqp_url: str, rabbitmq_node: Server, taskyard: StartTaskyard, tmp_path: Path
) -> AsyncIterator[Operator]:
    """The operator of a fresh virtual host, for what only RabbitMQ has."""
    target = BrokerUnderTest(
        url=amqp_url,
        kind="rabbitmq",
        version=rabbitmq_node.version,
        management_url=rabbitmq_node.management_url,
    )
    made = Operator(target, taskyard, tmp_path)
    yield made
    await made.close()


async def intents(broker: Broker) -> Intents:
    found = Intents()
    async for batch in broker.follow_control():
        found.apply(batch.records)
        if batch.caught_up:
            return found
    raise AssertionError("the log ended")


async def taken(broker: Broker, queue: str, count: int) -> list[Envelope]:
    """Take so many jobs off a queue, and leave them unsettled."""
    consumer = await broker.consume(queue, credit=count)
    got: list[Envelope] = []
    while len(got) < count:
        got += [delivery.envelope for delivery in await consumer.take()]
    return got


# ---------------------------------------------------------------- set-up


async def test_plan_apply_verify(operator: Operator) -> None:
    """A plan changes nothing, `apply` does what it says, and `verify` agrees (BS-17)."""
    plan = await operator.json("broker", "plan", "shop")
    assert plan["actions"]
    assert "create" in await operator.run("broker", "verify", "shop", code=1)
    assert (await operator.json("broker", "apply", "shop"))["actions"] == plan["actions"]
    assert "verified" in await operator.run("broker", "verify", "shop")
    again = await operator.json("broker", "apply", "shop")
    assert again == {"actions": [], "differences": [], "verified": True}
    more = await operator.json("broker", "plan", "shop", "--queue", "extra")
    assert more["actions"]
    assert all("extra" in action for action in more["actions"])


async def test_the_ledger_is_asked_for_once(operator: Operator) -> None:
    """`--ledger` adds the feed, which stays when `apply` runs without it."""
    await operator.run("broker", "apply", "shop")
    assert (await operator.json("broker", "plan", "shop", "--ledger"))["actions"]
    await operator.run("broker", "apply", "shop", "--ledger")
    assert (await operator.json("broker", "plan", "shop"))["actions"] == []
    await operator.run("broker", "verify", "shop", "--ledger")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("broker", "apply"), "MODULE"),
        (("broker", "apply", "no_such_module"), "no_such_module"),
        (("broker", "apply", "--queue", "Bad.Name"), "Bad.Name"),
        (("broker", "apply", "--queue", "a:brass"), "brass"),
        (("queues", "pause"), "--all"),
        (("queues", "pause", "checkout", "--for", "soon"), "soon"),
        (("parked", "release"), "--all"),
        (("parked", "release", "--reason", "boredom"), "boredom"),
    ],
)
async def test_mistakes_are_named(
    taskyard: StartTaskyard, tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    """A wrong command ends with 2 and says what is wrong with it, whatever the broker."""
    url = f"sqlite:///{tmp_path / 'broker.db'}"
    program = taskyard(*arguments, env={"TASKYARD_BROKER_URL": url})
    assert await program.wait_exit(within=30) == 2
    assert named in program.output


async def test_without_a_broker(taskyard: StartTaskyard) -> None:
    """A broker that is not there is 69; one that is not named is 2, naming the setting."""
    url = f"amqp://127.0.0.1:{free_port()}"
    gone = taskyard(
        "queues", "list", env={"TASKYARD_BROKER_URL": url, "TASKYARD_PUBLISH_DEADLINE": "1"}
    )
    unset = taskyard("queues", "list")
    assert await gone.wait_exit(within=30) == 69
    assert "127.0.0.1" in gone.output
    assert await unset.wait_exit(within=30) == 2
    assert "TASKYARD_BROKER_URL" in unset.output


# ---------------------------------------------------------------- queues


async def test_pause_and_resume(operator: Operator) -> None:
    """A pause is in the control log when the command ends, with who, why and until when (ZS-53)."""
    await operator.run("broker", "apply", "shop")
    assert "paused checkout" in await operator.run(
        "queues", "pause", "checkout", "--for", "90s", "--reason", "a leak"
    )
    broker = await operator.open()
    pause = (await intents(broker)).pause_of("checkout", broker.now_ms())
    assert pause is not None
    assert "@" in pause.by
    assert pause.expires is not None
    assert 60_000 < pause.expires - broker.now_ms() <= 90_000
    rows = {row["queue"]: row for row in await operator.json("queues", "list", "shop")}
    assert "a leak" in rows["checkout"]["paused"]
    assert rows["mail"]["paused"] is None
    assert "resumed checkout" in await operator.run("queues", "resume", "checkout")
    await operator.run("queues", "resume", "checkout", code=1)
    assert (await intents(broker)).pause_of("checkout", broker.now_ms()) is None
    await operator.run("queues", "pause", "--all")
    assert (await intents(broker)).pause_of("mail", broker.now_ms()) is not None
    assert "nowhere" in await operator.run("queues", "pause", "nowhere", code=1)


async def test_queues_are_counted(operator: Operator) -> None:
    """`queues list` shows all queues, or those of a module, with their jobs."""
    await operator.run("broker", "apply", "shop", "--queue", "extra")
    broker = await operator.open()
    await park(broker, "mail", 2)
    await publish(broker, jobs("checkout", 3))
    rows = {row["queue"]: row for row in await operator.json("queues", "list")}
    assert set(rows) == {"checkout", "extra", "mail"}
    assert (rows["checkout"]["ready"], rows["mail"]["parked"]) == (3, 2)
    table = await operator.run("queues", "list", "shop")
    assert "checkout" in table
    assert "extra" not in table


async def test_cancel_is_recorded(operator: Operator) -> None:
    """Without a ledger a cancel is recorded for whoever meets the job, and says so (ZS-35)."""
    await operator.run("broker", "apply", "shop")
    output = await operator.run("jobs", "cancel", "one", "two", "--abort")
    assert "one: cancel recorded" in output
    found = await intents(await operator.open())
    for job_id in ("one", "two"):
        record = found.cancel_of(job_id)
        assert record is not None
        assert record.body == {"abort": True}
    assert "2 intents" in await operator.run("broker", "compact")


# ---------------------------------------------------------------- parked jobs


async def test_parked_jobs_are_listed_and_shown(operator: Operator) -> None:
    """Looking shows why, since when and with which arguments, and changes nothing (LQ-15)."""
    await operator.run("broker", "apply", "shop")
    broker = await operator.open()
    held = await park(broker, "checkout", 3)
    poison = await park(broker, "mail", 2, reason="poison")
    listed = await operator.json("parked", "list")
    assert [job["id"] for job in listed if job["queue"] == "checkout"] == held
    assert [job["id"] for job in listed if job["reason"] == "poison"] == poison
    assert [
        job["id"] for job in await operator.json("parked", "list", "-q", "checkout", "-n", "2")
    ] == held[:2]
    assert poison[0] in await operator.run("parked", "list", "--reason", "poison")
    shown = await operator.json("parked", "show", poison[1])
    assert (shown["queue"], shown["task"], shown["args"]) == ("mail", "mail.t", {"n": 1})
    assert "no-such-job" in await operator.run("parked", "show", "no-such-job", code=1)
    assert await browse(broker, "checkout") == held


async def test_release_in_every_way(operator: Operator) -> None:
    """By number, id, reason and all: in order, each a new attempt (LQ-16, BS-06, BS-07, BS-08)."""
    await operator.run("broker", "apply", "shop")
    broker = await operator.open()
    held = await park(broker, "checkout", 6)
    poison = await park(broker, "checkout", 1, reason="poison")
    assert (await operator.json("parked", "release", "-n", "2"))["released"] == held[:2]
    one = await operator.json("parked", "release", held[4], "-q", "checkout")
    assert one["released"] == [held[4]]
    assert (await operator.json("parked", "release", "--reason", "poison"))["released"] == poison
    assert await browse(broker, "checkout") == [held[2], held[3], held[5]]
    assert "released 3 jobs" in await operator.run("parked", "release", "--all")
    await operator.run("parked", "release", "--all", code=1)
    released = await taken(broker, "checkout", 7)
    assert {envelope.id for envelope in released} == {*held, *poison}
    assert {(e.attempt, e.base, e.parking) for e in released} == {(2, 1, None)}
    assert sorted(e.priority for e in released) == sorted(
        [*((n * 7 + 3) % 10 for n in range(6)), 3]
    )


async def test_discard(operator: Operator) -> None:
    """Discarded jobs are gone from the lot and are not run; the feed says that they failed."""
    await operator.run("broker", "apply", "shop", "--ledger")
    broker = await operator.open()
    held = await park(broker, "checkout", 3)
    assert (await operator.json("parked", "discard", held[1]))["discarded"] == [held[1]]
    assert await browse(broker, "checkout") == [held[0], held[2]]
    assert "discarded 2 jobs" in await operator.run("parked", "discard", "--all")
    assert await browse(broker, "checkout") == []
    assert (await broker.stats(["checkout"]))["checkout"].ready == 0
    feed = await broker.feed(credit=100)
    failed: set[str] = set()
    while len(failed) < 3:
        for item in await feed.take():
            failed |= {record.job for record in item.records if record.outcome == "failed"}
    assert failed == set(held)


async def test_a_killed_release_loses_nothing(operator: Operator) -> None:
    """SIGKILL at any moment: each job is in its queue or in its lot (SQ-07, promise 3)."""
    await operator.run("broker", "apply", "shop")
    broker = await operator.open()
    parked = await park(broker, "checkout", 1500)
    program = operator.start("parked", "release", "--all")

    async def begun() -> bool:
        return (await broker.stats(["checkout"]))["checkout"].ready > 0

    await eventually(begun, within=30, every=0.005, hint="the release begun")
    program.kill()
    await program.wait_exit()

    async def rest() -> list[str]:
        left = await browse(broker, "checkout")
        ready = (await broker.stats(["checkout"]))["checkout"].ready
        assert len(left) + ready >= len(parked)
        return ["", *left]

    left = (await eventually(rest, within=30, hint="all jobs accounted for"))[1:]
    assert left == parked[len(parked) - len(left) :]
    if left:
        await operator.run("parked", "release", "--all")
    ready = (await broker.stats(["checkout"]))["checkout"].ready
    released = await taken(broker, "checkout", ready)
    assert {envelope.id for envelope in released} == set(parked)


async def test_orphans_are_found_and_sent_home(
    rabbit_operator: Operator, rabbitmq_node: Server, amqp_url: str
) -> None:
    """Jobs whose queue went away are listed, and released once it is back (RabbitMQ)."""
    operator = rabbit_operator
    await operator.run("broker", "apply", "shop")
    broker = await operator.open()
    soon = broker.now_ms() + 1000
    late = [msgspec.structs.replace(job, not_before_ms=soon) for job in jobs("mail", 2)]
    await publish(broker, late)
    rabbitmq_node.blocking.delete_queue(amqp_url, "taskyard.q.mail")

    async def orphaned() -> bool:
        return await browse(broker, "@orphaned") == [job.id for job in late]

    await eventually(orphaned, within=20, hint="two orphans")
    listed = await operator.json("parked", "list")
    assert [(job["queue"], job["reason"]) for job in listed] == [("mail", "unroutable")] * 2
    assert "not confirmed" in await operator.run("parked", "release", "--all", code=1)
    assert await orphaned()
    await operator.run("broker", "apply", "shop")
    await operator.run("parked", "release", "--all")
    assert {e.id for e in await taken(broker, "mail", 2)} == {job.id for job in late}


# ---------------------------------------------------------------- doctor and durability


async def test_doctor(operator: Operator) -> None:
    """The doctor names what is missing and the command that mends it, and is calm afterwards; a
    queue with jobs and no worker is named at once (ZS-44).
    """
    sick = await operator.run("doctor", "shop", code=1)
    assert "taskyard broker apply shop" in sick
    await operator.run("broker", "apply", "shop")
    findings = await operator.json("doctor", "shop")
    assert {finding["level"] for finding in findings} == {"ok"}
    broker = await operator.open()
    await park(broker, "mail", 1)
    await operator.run("queues", "pause", "checkout")
    findings = await operator.json("doctor", "shop")
    warned = " ".join(f["what"] for f in findings if f["level"] == "warning")
    assert "mail: 1 parked" in warned
    assert "checkout is paused" in warned
    await publish(broker, jobs("checkout", 1))
    assert "no consumer" in await operator.run("doctor", "shop", code=1)


async def test_without_the_management_api(rabbit_operator: Operator) -> None:
    """Without it everything works that names its queues, and bindings are said to be unverified."""
    operator = rabbit_operator
    operator.target = dataclasses.replace(operator.target, management_url=NOWHERE)
    await operator.run("broker", "apply", "shop")
    assert "bindings unverified" in await operator.run("broker", "verify", "shop")
    broker = await operator.open()
    parked = await park(broker, "mail", 1)
    await operator.run("queues", "list", "shop")
    assert parked[0] in await operator.run("parked", "list", "-q", "mail")
    assert "TASKYARD_MANAGEMENT_URL" in await operator.run("parked", "list", code=2)


@pytest.mark.slow
@pytest.mark.breaks_broker
async def test_what_was_done_survives_the_broker(operator: Operator) -> None:
    """Queues, pauses, cancels and parked jobs are there after `kill -9` of the broker (promise 5)."""
    await operator.run("broker", "apply", "shop")
    broker = await operator.open()
    parked = await park(broker, "mail", 5)
    await operator.run("queues", "pause", "checkout")
    await operator.run("jobs", "cancel", "some-job")
    if operator.target.node is not None:
        await on_disk(operator.target.node)
    await operator.target.kill_broker()
    later = await operator.open()

    async def there() -> bool:
        found = await intents(later)
        assert found.pause_of("checkout", later.now_ms()) is not None
        assert found.cancel_of("some-job") is not None
        return await browse(later, "mail") == parked

    await eventually(there, within=60, hint="all as it was")
    await operator.run("broker", "verify", "shop")
