"""Anything may be published to our queues by anybody: it is run, parked or refused, with a reason."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pika
import pytest

from support import foreign
from support.attack import Size
from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.management import Management
from support.process import run_taskyard
from support.rig import QUEUE, Rig
from support.server import vhost_of

MIB = 2**20
#: Most jobs in the queue when more are published: a small node would raise its alarm over a million,
#: and what an alarm costs is for `test_alarm` to say.
BACKLOG = 50_000

#: Who is spoken to, how often of a hundred: the queue of jobs, the delays, the lot, what is not for
#: others at all.
EXCHANGES = (
    (85, "taskyard.tasks", QUEUE),
    (5, "taskyard.parked", QUEUE),
    (4, "taskyard.control", ""),
    (3, "taskyard.lifecycle", QUEUE),
    (3, "taskyard.delay.deliver", QUEUE),
)


def publish(url: str, random: Random, number: int) -> Counter[str]:
    """Publish so much junk, and some more whose confirm says that all before it is stored; return how
    many went to each exchange.

    A channel that closes behind publishes without confirms may take some of them along (seen on
    3.10, in queues that are replicated).
    """
    sent: Counter[str] = Counter()
    weights = [weight for weight, _, _ in EXCHANGES]
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()

        def send(exchange: str, key: str) -> None:
            own = foreign.properties(random)
            if exchange == "taskyard.control":
                own.headers = None  # RabbitMQ's streams end the connection over a decimal in there
            channel.basic_publish(exchange, key, foreign.body(random), own)
            sent[exchange] += 1

        for _ in range(number):
            _, exchange, key = random.choices(EXCHANGES, weights)[0]
            send(exchange, key)
        channel.confirm_delivery()
        for _, exchange, key in EXCHANGES:
            send(exchange, key)
    return sent


def held(management: Management, vhost: str, names: Iterable[str]) -> int:
    """Return how many messages lie in the queues whose names begin so."""
    listed = management.request("GET", f"queues/{vhost}")
    return sum(q.get("messages", 0) for q in listed if q["name"].startswith(tuple(names)))


def waiting(management: Management, vhost: str) -> int:
    """Return how many jobs the worker has before it."""
    return held(management, vhost, ["taskyard.q."])


@pytest.mark.on_cluster
@pytest.mark.server_only
@pytest.mark.timeout(2 * 3600)  # three nodes on few cores write everything down three times
async def test_junk_is_accounted_for(
    size: Size, seed: int, broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """A foreign message is a job or has a reason not to be (LQ-03, GM-02): run, parked or waiting;
    the worker lives on, in flat memory, and does the good jobs among it.
    """
    number, good = size.of((3_000, 200), (1_000_000, 2_000))
    random = Random(seed)
    management = Management(broker_url.management_url or "")
    vhost = vhost_of(broker_url.url)
    sent: Counter[str] = Counter()
    async with Rig(broker_url, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "50")
        early = 0
        rounds = size.of(4, 100)
        for _ in range(rounds):
            await eventually(lambda: waiting(management, vhost) < BACKLOG, within=600, every=1.0)
            sent += await asyncio.to_thread(publish, broker_url.node_url, random, number // rounds)
            await rig.send(*(rig.note(f"good {n}") for n in range(good // rounds)))
            early = early or worker.proportional_bytes()

        async def accounted() -> bool:
            ended = [
                await rig.ended_as(worker, how) for how in ("succeeded", "failed", "cancelled")
            ]
            aside = await asyncio.to_thread(
                held, management, vhost, ["taskyard.parked.", "taskyard.orphaned", "taskyard.delay"]
            )
            jobs = sent["taskyard.tasks"] + sent["taskyard.delay.deliver"] + sent["taskyard.parked"]
            wanted = jobs + good // rounds * rounds
            assert sum(ended) + aside == wanted, (ended, aside, wanted)
            return True

        await eventually(accounted, within=size.of(60, 6000), every=1.0)
        assert len({run["line"] for run in rig.seen()}) == good // rounds
        late = worker.proportional_bytes()
        print(
            f"{sum(sent.values())} sent; {early / MIB:.0f} MiB at first, {late / MIB:.0f} at last"
        )
        assert late - early < 20 * MIB
        assert worker.is_running
        assert (await rig.probe(worker, "/livez")).status_code == 200
        assert (await rig.probe(worker, "/readyz")).status_code == 200
    env = rig.env(TASKYARD_MANAGEMENT_URL=management.url)
    for command in (["parked", "list", "--group"], ["queues", "list"], ["doctor"]):
        code, said = await asyncio.to_thread(
            run_taskyard, *command, log=tmp_path / f"{command[0]}.log", env=env, within=120
        )
        assert code in {0, 1}, said
        assert "Traceback" not in said
