"""Encrypted arguments from outside, on every broker: what is stored, said and run."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path

import aio_pika
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from support.eventually import eventually
from support.process import Program
from support.rig import Rig
from support.traces import found_in
from taskyard.producer import AsyncProducer
from taskyard.shared import Job, Secret
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.settings import Settings

#: Made of pieces, so that nothing but the jobs carries them in one piece.
CARD = "4111" + "1" * 8 + "7316"
#: Sent in the clear, to see that the search finds what is there.
CONTROL = "5500" + "0" * 8 + "9424"

TASKS = """
import hashlib, json, os
from taskyard.shared import Context, Queue, RetryPolicy, Secret

retry = RetryPolicy(attempts=2, first=0.2, jitter="none")
shop = Queue("shop", retry=retry)
vault = Queue("vault", retry=retry, encrypt=True)
aside = Queue("aside")


def note(ctx, path, card):
    digest = hashlib.sha256(card.encode()).hexdigest()
    line = {"job": ctx.job_id, "attempt": ctx.attempt, "digest": digest, "seen": repr(ctx.args)}
    if ctx.queue == "vault":
        del line["seen"]  # there the card is a plain argument of an encrypted body
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\\n")


@shop.task
async def pay(ctx: Context, path: str, card: Secret[str], wrong: bool = False) -> None:
    note(ctx, path, card.reveal())
    if wrong:
        raise RuntimeError(f"declined: {card} of {ctx.args}")


@shop.task(mode="process")
def pay_apart(ctx: Context, path: str, card: Secret[str]) -> None:
    note(ctx, f"{path}.{os.getpid()}", card.reveal())


@vault.task
def charge(ctx: Context, path: str, card: str, wrong: bool = False) -> None:
    note(ctx, path, card)
    if wrong:
        raise RuntimeError("declined")


@vault.task
async def forward(ctx: Context, path: str, card: Secret[str]) -> None:
    await ctx.send(pay.job(path, card))
    await ctx.send(charge.job(path, card.reveal()))


@aside.task
async def nothing(number: str) -> None: ...
"""


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


ENV = {"TASKYARD_ENCRYPTION_KEYS": f"k1:{key('1')}", "TASKYARD_LOG_LEVEL": "debug"}
BOTH = f"k2:{key('2')},k1:{key('1')}"


class Shop(Rig):
    """A rig with queues that take cards, and a producer with a key."""

    def __init__(self, target, start, folder: Path) -> None:
        super().__init__(target, start, folder, queues=("shop", "vault", "aside"), ledger=True)
        (folder / "cards.py").write_text(TASKS)
        self.paid = folder / "paid.jsonl"
        self.producer = self.sender(ENV["TASKYARD_ENCRYPTION_KEYS"])

    def sender(self, keys: str) -> AsyncProducer:
        return AsyncProducer(settings=Settings(broker_url=self.target.url, encryption_keys=keys))

    def pay(self, **more: object) -> Job[object]:
        args = {"path": str(self.paid), "card": Secret(CARD), **more}
        return Job(queue="shop", task="pay", args=args)

    def charge(self, **more: object) -> Job[object]:
        args = {"path": str(self.paid), "card": CARD, **more}
        return Job(queue="vault", task="charge", args=args, encrypt=True)

    async def run(self, *arguments: str) -> str:
        """Run a command to its end and return what it printed."""
        url = self.target.management_url
        env = self.env(**ENV, **({"TASKYARD_MANAGEMENT_URL": url} if url else {}))
        program = self._start(*arguments, env=env, cwd=self.folder)
        assert await program.wait_exit(within=60) == 0, program.output
        return program.output

    async def started(self, **env: str):
        return await self.worker("--queues", "shop,vault", module="cards", env={**ENV, **env})

    def runs(self) -> list[dict[str, object]]:
        if not self.paid.exists():
            return []
        return [json.loads(line) for line in self.paid.read_text().splitlines()]

    async def ran(self, number: int) -> list[dict[str, object]]:
        """Wait until so many attempts have noted that they got the card."""

        def enough() -> list[dict[str, object]]:
            found = self.runs()
            return found if len(found) >= number else []

        found = await eventually(enough, within=30)
        assert {run["digest"] for run in found} == {hashlib.sha256(CARD.encode()).hexdigest()}
        return found


@pytest.fixture
def shop(broker_url, taskyard, tmp_path):
    return Shop(broker_url, taskyard, tmp_path)


@pytest.mark.breaks_broker
async def test_a_card_number_is_stored_and_said_nowhere(shop):
    """ZS-21, B-09: as a secret argument and in an encrypted queue; run, retried, parked, delayed and
    sent on by a handler; shown by every command; with debug logs. Searched: the broker's files, the
    logs and all output. The handlers get the number.
    """
    async with shop:
        await shop.send(Job(queue="aside", task="nothing", args={"number": CONTROL}))
        worker = await shop.started()
        failing = {"shop": shop.pay(wrong=True), "vault": shop.charge(wrong=True)}
        await shop.send(
            shop.pay(),
            shop.charge(),
            *failing.values(),
            shop.pay().options(delay=0.5),
            shop.pay().options(delay="1h"),
            shop.charge().options(delay="1h"),
            Job(queue="vault", task="forward", args={"path": str(shop.paid), "card": Secret(CARD)}),
        )
        path = f'path="{shop.paid}"'
        said = await shop.run("send", "shop:pay", path, "--secret", f"card={CARD}")
        said += await shop.run("send", "vault:charge", path, f'card="{CARD}"', "--encrypt")
        # Three at once and after a while, two attempts of either failing one, two sent on, two
        # from the shell.
        runs = await shop.ran(11)
        seen = [str(run["seen"]) for run in runs if "seen" in run]
        assert len(seen) == 6
        assert all("'card': Secret(‹secret›)" in text for text in seen)
        for queue, job in failing.items():
            (parked,) = await shop.parked(queue=queue)
            assert (parked.envelope.id, parked.envelope.attempt) == (job.id, 2)
            assert parked.envelope.parking.reason == "exhausted"
            said += await shop.run("parked", "show", job.id)
            said += await shop.run("parked", "show", job.id, "--json")
        said += await shop.run("parked", "list")
        said += await shop.run("parked", "list", "--json")
        assert said.count("‹encrypted with key k1›") + said.count("\\u2039encrypted") >= 4
        assert "declined: ‹secret›" in said
        said += (await shop.probe(worker, "/metrics")).text
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        assert "attempt succeeded" in worker.output
        assert CARD not in said + worker.output
    _assert_not_stored(shop)


def _assert_not_stored(shop: Shop) -> None:
    places = [shop.folder]
    node = shop.target.node
    if node is not None:
        node.stop()
        places.append(node.folder)
    try:
        assert any(found_in(place, CONTROL) for place in places), "the search finds nothing at all"
        assert [found for place in places for found in found_in(place, CARD)] == []
    finally:
        if node is not None:
            node.start()


async def test_jobs_without_their_key_wait_for_it(shop):
    """ZS-21: no key, or another key of the same id: parked `undecryptable`, naming the id alone. With
    the key back, behind a newer one, a release runs them.
    """
    async with shop:
        jobs = {"shop": shop.pay(), "vault": shop.charge()}
        await shop.send(*jobs.values())
        for keys, words in (("", "no key 'k1'"), (f"k1:{key('9')}", "does not open it")):
            worker = await shop.started(TASKYARD_ENCRYPTION_KEYS=keys)
            for queue, job in jobs.items():
                (parked,) = await shop.parked(queue=queue)
                assert parked.envelope.id == job.id
                assert parked.envelope.parking.reason == "undecryptable"
                assert words in parked.envelope.parking.detail
                assert parked.envelope.parking.error is None
            worker.terminate()
            assert await worker.wait_exit(within=20) == 0
            assert key("9")[:10] not in worker.output
            assert "released 2 jobs" in await shop.run("parked", "release", "--all")
        assert shop.runs() == []
        await shop.started(TASKYARD_ENCRYPTION_KEYS=BOTH)
        runs = await shop.ran(2)
        assert {run["job"] for run in runs} == {job.id for job in jobs.values()}
        assert {run["attempt"] for run in runs} == {3}


async def test_a_new_first_key_leaves_old_jobs_running(shop):
    """ZS-21: after a rotation workers run what was sealed before, and what is sealed since."""
    async with shop:
        await shop.send(shop.pay(), shop.charge(), shop.pay().options(delay=0.5))
        await shop.producer.close()
        shop.producer = shop.sender(BOTH)
        await shop.send(shop.pay(), shop.charge())
        await shop.started(TASKYARD_ENCRYPTION_KEYS=BOTH)
        await shop.ran(5)
        await shop.send(shop.pay(wrong=True))
        (parked,) = await shop.parked(queue="shop")
        assert b'"ty-enc":"k2"' in parked.envelope.body
        assert parked.envelope.attempt == 2


OWN_WORKER = """
import sys
from cards import shop
from taskyard.shared.settings import Settings
from taskyard.workers.process import run, run_worker
from taskyard.workers.worker import WorkerOptions

run(run_worker([shop], Settings(encryption_keys=sys.stdin.read()), WorkerOptions(modules=("cards",))))
"""


async def test_keys_given_in_code_reach_child_processes(shop):
    """ZS-21: a worker that has its keys from its own program, not from a variable, runs encrypted
    jobs in children, which show no key to whoever looks at processes.
    """
    program = shop.folder / "own_worker.py"
    keys = shop.folder / "keys"
    program.write_text(OWN_WORKER)
    keys.write_text(BOTH)
    command = f"exec {sys.executable} {program} < {keys}"
    async with shop:
        job: Job[None] = Job(
            queue="shop", task="pay_apart", args={"path": str(shop.paid), "card": Secret(CARD)}
        )
        await shop.send(job)
        with Program(["sh", "-c", command], log=shop.folder / "own.log", env=shop.env()):
            paid = await eventually(lambda: list(shop.folder.glob("paid.jsonl.*")), within=40)
            child = Path("/proc") / paid[0].suffix[1:]
            for name in ("environ", "cmdline"):
                shown = (child / name).read_bytes()
                assert shown
                assert key("1").encode() not in shown
        assert [parked async for parked in shop.broker.parked("shop")] == []
        assert (
            json.loads(paid[0].read_text())["digest"] == hashlib.sha256(CARD.encode()).hexdigest()
        )


async def test_another_program_encrypts_by_the_protocol(shop):
    """ZS-21, LQ-03: a message made by hand with nothing but AES-GCM runs, whole and in part."""
    cipher = AESGCM(b"1" * 32)
    whole, part = mint_id(), mint_id()
    nonces = os.urandom(12), os.urandom(12)
    plain = json.dumps({"path": str(shop.paid), "card": CARD}).encode()
    closed = cipher.encrypt(nonces[0], plain, f"{whole}\nvault.charge".encode())
    value = cipher.encrypt(nonces[1], json.dumps(CARD).encode(), f"{part}\nshop.pay\ncard".encode())
    card = {"ty-enc": "k1", "ty-enc-nonce": _text(nonces[1]), "ty-enc-data": _text(value)}
    opened = json.dumps({"path": str(shop.paid), "card": card}).encode()
    async with shop:
        await shop.started()
        if shop.target.kind == "rabbitmq":
            await _publish_by_hand(shop.target.url, whole, closed, _text(nonces[0]), part, opened)
        else:
            envelopes = [
                Envelope(
                    id=whole,
                    queue="vault",
                    task="charge",
                    body=closed,
                    content_type="application/vnd.taskyard.encrypted",
                    enc_key="k1",
                    enc_nonce=_text(nonces[0]),
                ),
                Envelope(id=part, queue="shop", task="pay", body=opened),
            ]
            await shop.broker.publish(envelopes, deadline_s=10)
        assert {run["job"] for run in await shop.ran(2)} == {whole, part}


async def _publish_by_hand(
    url: str, whole: str, closed: bytes, nonce: str, part: str, opened: bytes
) -> None:
    """Publish both with a client that knows nothing of us."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        tasks = await channel.get_exchange("taskyard.tasks", ensure=False)
        message = aio_pika.Message(
            closed,
            content_type="application/vnd.taskyard.encrypted",
            correlation_id=whole,
            headers={"ty-task": "charge", "ty-enc": "k1", "ty-enc-nonce": nonce},
        )
        await tasks.publish(message, routing_key="vault")
        message = aio_pika.Message(opened, correlation_id=part, type="pay")
        await tasks.publish(message, routing_key="shop")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
