"""Sending while the broker is away, into a file: nothing is lost, overtaken or kept for ever."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from support.eventually import eventually
from support.process import Program, run_taskyard
from support.proxy import Proxy
from support.rabbitmq import Node
from support.responder import create_queues
from taskyard.producer import AsyncProducer, Producer
from taskyard.shared import Job, Queue, Secret
from taskyard.shared.broker import Delivery
from taskyard.shared.brokers import connect
from taskyard.shared.errors import SpoolFull, UnknownQueue
from taskyard.shared.settings import Settings
from taskyard.shared.spool import connect_spool, survey

mail = Queue("spooled")


@mail.task
async def write(to: str) -> None: ...


@mail.task
async def charge(card: Secret[str]) -> None: ...


@pytest.fixture
async def url(amqp_url: str) -> str:
    await create_queues(amqp_url, mail.name)
    return amqp_url


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'spool.db'}"


async def arrived(url: str, number: int, *, queue: str = mail.name) -> list[Delivery]:
    """Take so many jobs from the broker, in its order."""
    broker = connect(url, Settings(broker_url=url).broker_options("test"))
    await broker.open()
    found: list[Delivery] = []
    try:
        flow = await broker.consume(queue, credit=number + 10)
        async with asyncio.timeout(20):
            while len(found) < number:
                found += await flow.take()
        return found
    finally:
        await broker.close(abort=True)


def names(found: list[Delivery]) -> list[str]:
    return [str(json.loads(each.envelope.body)["to"]) for each in found]


async def left_in(spool: str) -> tuple[int, int]:
    """Return how many jobs wait in a spool, and how many were refused."""
    store = connect_spool(spool)
    await store.open()
    state = await survey(store)
    await store.close()
    return state.pending, state.refused


def files_of(folder: Path) -> list[Path]:
    """Return the database and its log."""
    return [
        path for path in folder.glob("spool.db*") if path.is_file() and path.suffix != ".db-shm"
    ]


def counted(producer: AsyncProducer | Producer, outcome: str) -> float:
    found = producer.metrics.count("jobs_published", mail.name, f"{mail.name}.write", outcome)
    return found.value


async def test_sending_goes_on_without_the_broker(url: str, spool: str) -> None:
    """Each send returns at once, spooled; when the broker is back everything arrives in the order
    in which it was sent, also what is sent meanwhile, and afterwards the file is out of the way.
    """
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url), spool=spool) as producer:
        assert not (await producer.send(write, to="before")).spooled
        proxy.refuse()
        await eventually(lambda: "broker_connected 0.0" in producer.metrics.expose().decode())
        begun = time.monotonic()
        handles = [await producer.send(write, to=f"away {n}") for n in range(50)]
        assert time.monotonic() - begun < 5
        assert all(handle.spooled for handle in handles)
        assert "taskyard_outbox_pending 50.0" in producer.metrics.expose().decode()
        ids = await producer.send_many(write.job(to=f"many {n}") for n in range(600))
        assert len(set(ids)) == 600
        proxy.resume()
        spooled = True
        late: list[str] = []
        while spooled and len(late) < 5000:
            late.append(f"late {len(late)}")
            spooled = (await producer.send(write, to=late[-1])).spooled
        sent = ["before", *(f"away {n}" for n in range(50)), *(f"many {n}" for n in range(600))]
        assert names(await arrived(url, len(sent) + len(late))) == sent + late
        assert counted(producer, "spooled") == 650 + len(late) - 1
        assert "taskyard_outbox_pending 0.0" in producer.metrics.expose().decode()
    assert await left_in(spool) == (0, 0)


async def test_a_healthy_broker_costs_no_write(url: str, spool: str, tmp_path: Path) -> None:
    """While the broker takes jobs, nothing is written into the file."""
    async with AsyncProducer(url, spool=spool) as producer:
        await producer.send(write, to="first")  # opens the file
        before = {path: path.stat().st_mtime_ns for path in files_of(tmp_path)}
        await asyncio.gather(*(producer.send(write, to=str(n)) for n in range(100)))
        await producer.send_many(write.job(to=str(n)) for n in range(1000))
        assert {path: path.stat().st_mtime_ns for path in files_of(tmp_path)} == before


async def test_a_silent_broker_gets_its_jobs_later(url: str, spool: str) -> None:
    """No confirm comes: the job is spooled within its deadline, under its own id."""
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url), spool=spool) as producer:
        await producer.send(write, to="before")
        proxy.stall()
        begun = time.monotonic()
        handle = await producer.send(write.job(to="unsure"), deadline=2)
        assert time.monotonic() - begun < 2.5
        assert handle.spooled
        proxy.cut()
        proxy.resume()
        found = await arrived(url, 2)
        assert handle.id in {each.envelope.id for each in found}


DIES = """
import os, signal, sys
from taskyard.producer import Producer
from taskyard.shared import Job

producer = Producer()
for n in range(100):
    job = Job(queue="spooled", task="write", args={"to": str(n)})
    assert producer.send(job).spooled
    print("sent", n, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_what_a_killed_program_has_spooled_is_sent(
    url: str, spool: str, tmp_path: Path
) -> None:
    """SIGKILL after the sends: `taskyard relay` says so when the broker is away, and later hands
    everything over, once; another relay finds nothing.
    """
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    away = url.replace(f":{url.rpartition(':')[2].partition('/')[0]}/", ":9/")
    env = {"TASKYARD_BROKER_URL": away, "TASKYARD_SPOOL_URL": spool}
    env["TASKYARD_PUBLISH_DEADLINE"] = "2"
    with Program([sys.executable, str(script)], log=tmp_path / "dies.log", env=env) as program:
        await program.wait_line("sent 99", within=30)
        assert await program.wait_exit() == -9
    assert await left_in(spool) == (100, 0)
    code, said = run_taskyard("relay", log=tmp_path / "away.log", env=env)
    assert code == 69, said
    code, said = run_taskyard("doctor", log=tmp_path / "doctor.log", env=env)
    assert code == 1
    assert "spool: 100 jobs wait for the broker" in said
    code, said = run_taskyard("send", "spooled:write", "to=100", log=tmp_path / "send.log", env=env)
    assert code == 0, said
    assert "in the spool" in said
    assert await left_in(spool) == (101, 0)
    env["TASKYARD_BROKER_URL"] = url
    code, said = run_taskyard("relay", "--json", log=tmp_path / "relay.log", env=env)
    assert code == 0, said
    assert json.loads(said.splitlines()[-1])["sent"] == 101
    assert names(await arrived(url, 101)) == [str(n) for n in range(101)]
    code, said = run_taskyard("relay", log=tmp_path / "again.log", env=env)
    assert code == 0
    assert "0 handed over, 0 left, 0 refused" in said


async def test_the_next_producer_sends_what_is_left(url: str, spool: str) -> None:
    """A producer that is closed while the broker is away leaves its jobs to the next one, which
    sends them before its own.
    """
    async with Proxy.to(url) as proxy:
        settings = Settings(
            broker_url=proxy.url(url), spool_url=spool, publish_deadline=1.0, app="first"
        )
        proxy.refuse()
        with Producer(settings=settings) as first:
            assert first.send(write, to="left").spooled
        proxy.resume()
        with Producer(settings=settings) as second:
            second.send(write, to="own")
            assert names(await arrived(url, 2)) == ["left", "own"]


async def test_what_the_broker_refuses_is_kept_aside(url: str, spool: str, tmp_path: Path) -> None:
    """An unknown queue is an error at once while the broker answers; from the spool it is kept, and
    shown, and sent when the queue is there. Nobody behind it waits.
    """
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url), spool=spool) as producer:
        with pytest.raises(UnknownQueue):
            await producer.send(Job(queue="nowhere", task="t"))
        proxy.refuse()
        await eventually(lambda: "broker_connected 0.0" in producer.metrics.expose().decode())
        assert (await producer.send(Job(queue="nowhere", task="t", args={"to": "x"}))).spooled
        await producer.send(write, to="behind")
        proxy.resume()
        assert names(await arrived(url, 1)) == ["behind"]
    assert await left_in(spool) == (0, 1)
    env = {"TASKYARD_BROKER_URL": url, "TASKYARD_SPOOL_URL": spool}
    code, said = run_taskyard("relay", log=tmp_path / "one.log", env=env)
    assert code == 1, said
    assert "1 refused" in said
    code, said = run_taskyard("doctor", log=tmp_path / "doctor.log", env=env)
    assert code == 1
    assert "spool: 1 jobs were refused by the broker" in said
    await create_queues(url, "nowhere")
    code, said = run_taskyard("relay", "--refused", log=tmp_path / "two.log", env=env)
    assert code == 0, said
    assert names(await arrived(url, 1, queue="nowhere")) == ["x"]


async def test_a_full_spool_says_so(url: str, spool: str) -> None:
    """What does not fit is refused in words, at once; what is in it is sent."""
    async with Proxy.to(url) as proxy:
        settings = Settings(broker_url=proxy.url(url), spool_url=spool, spool_limit=5000)
        async with AsyncProducer(settings=settings) as producer:
            await producer.send(write, to="before")
            proxy.refuse()
            await eventually(lambda: "broker_connected 0.0" in producer.metrics.expose().decode())
            kept = 0
            with pytest.raises(SpoolFull, match=r"spool\.db holds .* of at most 5000 bytes"):
                while True:
                    await producer.send(write, to="x" * 500)
                    kept += 1
            assert kept > 3
            proxy.resume()
            await arrived(url, 1 + kept)
            await eventually(lambda: "outbox_pending 0.0" in producer.metrics.expose().decode())
            assert not (await producer.send(write, to="after")).spooled


async def test_a_file_that_is_taken_away_stops_nobody(url: str, spool: str, tmp_path: Path) -> None:
    """Removed while jobs are in it: that is said, and once the broker is back it gets the jobs that
    are sent from then on.
    """
    async with Proxy.to(url) as proxy, AsyncProducer(proxy.url(url), spool=spool) as producer:
        await producer.send(write, to="before")
        proxy.refuse()
        await eventually(lambda: "broker_connected 0.0" in producer.metrics.expose().decode())
        assert (await producer.send(write, to="lost with its file")).spooled
        for path in tmp_path.glob("spool.db*"):
            if path.is_file():
                path.unlink()
        proxy.resume()

        async def goes_through() -> bool:
            return not (await producer.send(write, to="after")).spooled

        await eventually(goes_through, within=30, every=0.5)


async def test_no_secret_is_in_the_file(
    url: str, spool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments that travel encrypted lie encrypted."""
    code, keys = run_taskyard("keys", "new", log=tmp_path / "keys.log")
    assert code == 0
    monkeypatch.setenv("TASKYARD_ENCRYPTION_KEYS", keys.strip().splitlines()[-1])
    async with Proxy.to(url) as proxy:
        proxy.refuse()
        async with AsyncProducer(proxy.url(url), spool=spool) as producer:
            handle = await producer.send(charge.job(card=Secret("4111111111111111")), deadline=2)
            assert handle.spooled
            written = b"".join(path.read_bytes() for path in files_of(tmp_path))
            assert handle.id.encode() in written
            assert b"4111111111111111" not in written


@pytest.mark.breaks_broker
async def test_a_blocked_broker_is_no_reason_to_wait(
    private_node: Node, private_amqp_url: str, spool: str
) -> None:
    """Under a memory alarm sends go to the file at once, and to the broker when it is over."""
    await create_queues(private_amqp_url, mail.name)
    async with AsyncProducer(private_amqp_url, spool=spool) as producer:
        await producer.send(write, to="before")
        await private_node.set_memory_alarm(on=True)
        assert (await producer.send(write.job(to="unsure"), deadline=4)).spooled
        begun = time.monotonic()
        for n in range(20):
            assert (await producer.send(write, to=str(n))).spooled
        assert time.monotonic() - begun < 3
        await private_node.set_memory_alarm(on=False)
        await eventually(
            lambda: "outbox_pending 0.0" in producer.metrics.expose().decode(), within=20
        )
    # The unsure one may have been stored by the broker as well: it is the same job.
    found = names(await arrived(private_amqp_url, 22))
    assert list(dict.fromkeys(found)) == ["before", "unsure", *(str(n) for n in range(20))]
