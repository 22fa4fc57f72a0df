"""A card number that is sent as a secret, and all that a system keeps and says of its jobs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from support.eventually import eventually
from support.ledger import Ledger
from support.postgres import Postgres
from support.rig import Rig
from support.traces import found_in
from taskyard.ledger.database import Database
from taskyard.producer import AsyncProducer
from taskyard.shared import Job, Secret
from taskyard.shared.settings import Settings

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.breaks_broker, pytest.mark.pairs]

#: Made of pieces, so that nothing but the jobs carries them in one piece.
CARD = "4111" + "1" * 12
#: Sent in the clear, to see that each search finds what is there.
CONTROL = "5500" + "0" * 8 + "9424"
DIGEST = hashlib.sha256(CARD.encode()).hexdigest()

TASKS = """
import hashlib, logging
from taskyard.shared import Context, Fail, Queue, RetryPolicy, Secret

retry = RetryPolicy(attempts=2, first=0.2, jitter="none")
shop = Queue("shop", retry=retry, output="all")
vault = Queue("vault", retry=retry, output="all", encrypt=True)
aside = Queue("aside")


def note(path, card):
    with open(path, "a") as file:
        file.write(hashlib.sha256(card.encode()).hexdigest() + "\\n")


@shop.task
async def pay(ctx: Context, path: str, card: Secret[str], how: str) -> object:
    note(path, card.reveal())
    print("printed:", card, ctx.args)
    logging.getLogger("shop").warning("logged: %s of %r", card, ctx.args)
    ctx.progress(1, 2, f"paying with {card}")
    if how == "raises":
        raise RuntimeError(f"declined: {card} of {ctx.args}")
    if how == "fails":
        raise Fail(f"no {card}")
    if how == "says":
        ctx.ok(f"paid with {card}")
    return card if how == "returns" else str(card)


@shop.task(mode="process")
def pay_apart(ctx: Context, path: str, card: Secret[str], how: str) -> str:
    note(path, card.reveal())
    print("printed apart:", card, ctx.args)
    if how == "raises":
        raise RuntimeError(f"declined: {card} of {ctx.args}")
    return f"paid with {card}"


@vault.task
def charge(ctx: Context, path: str, card: str, wrong: bool = False) -> None:
    note(path, card)
    if wrong:
        raise RuntimeError("declined")


@aside.task
async def echo(number: str) -> str:
    print(number)
    return number
"""


@dataclass
class Store:
    """A ledger's database, with all that it has written to disk."""

    url: str
    folder: Path
    server: Postgres | None = None

    async def dump(self) -> str:
        """Return every value of every table, as text."""
        database = Database(self.url)
        try:
            async with database.begin() as connection:
                names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
                found: list[str] = []
                for name in names:
                    rows = await connection.execute(text(f'SELECT * FROM "{name}"'))
                    found += [repr(tuple(row)) for row in rows]
        finally:
            await database.close()
        return "\n".join(found)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have everything in the files, as a stop in good order leaves it."""
        if self.server is None:
            with closing(sqlite3.connect(self.folder / "ledger.db")) as connection:
                assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            yield
            return
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database, on SQLite and on a PostgreSQL of this test's own."""
    if request.param == "sqlite":
        yield Store(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)
        return
    server: Postgres = request.getfixturevalue("private_postgres")
    with server.database() as url:
        yield Store(url, server.folder, server)


def key() -> str:
    return f"k1:{base64.b64encode(b'1' * 32).decode()}"


@pytest.mark.timeout(300)
async def test_a_card_number_is_nowhere(broker_url, taskyard, tmp_path, store):
    """ZS-21, B-09, issue 6: as a secret argument and in an encrypted queue; printed, logged, returned,
    raised with; run, retried, failed, parked, released, restarted, refused. Searched: the database's
    files and a dump of it, every command, the logs and outputs of all processes, the broker's files.
    The handlers get the number.
    """
    (tmp_path / "cards.py").write_text(TASKS)
    paid = tmp_path / "paid"
    env = {"TASKYARD_ENCRYPTION_KEYS": key(), "TASKYARD_LOG_LEVEL": "debug"}
    rig = Rig(broker_url, taskyard, tmp_path, queues=("shop", "vault", "aside"), ledger=True)
    rig.producer = AsyncProducer(
        settings=Settings(broker_url=broker_url.url, encryption_keys=key())
    )
    ledger = Ledger(rig, taskyard, store.url)
    said: list[str] = []

    async def run(*words: str, code: int = 0) -> str:
        management = broker_url.management_url
        more = {"TASKYARD_MANAGEMENT_URL": management} if management else {}
        variables = rig.env(TASKYARD_LEDGER_URL=store.url, **env, **more)
        program = taskyard(*words, env=variables, cwd=tmp_path)
        assert await program.wait_exit(within=60) == code, program.output
        said.append(program.output)
        return program.output

    def pay(how: str, task: str = "pay") -> Job[Any]:
        args = {"path": str(paid), "card": Secret(CARD), "how": how}
        return Job(queue="shop", task=task, args=args)

    def charge(**more: object) -> Job[Any]:
        args = {"path": str(paid), "card": CARD, **more}
        return Job(queue="vault", task="charge", args=args, encrypt=True)

    jobs = {
        "returned": (pay("is quiet"), "succeeded"),
        "unencodable": (pay("returns"), "succeeded"),
        "said": (pay("says"), "succeeded"),
        "raised": (pay("raises"), "parked"),
        "failed": (pay("fails"), "failed"),
        "apart": (pay("is quiet", "pay_apart"), "succeeded"),
        "raised apart": (pay("raises", "pay_apart"), "parked"),
        "delayed": (pay("is quiet").options(delay=0.3), "succeeded"),
        "far": (pay("is quiet").options(delay="1h"), "queued"),
        "encrypted": (charge(), "succeeded"),
        "encrypted, raised": (charge(wrong=True), "parked"),
        "encrypted, invalid": (charge(wrong=CARD), "parked"),
    }
    control = Job[Any](queue="aside", task="echo", args={"number": CONTROL})
    async with rig:
        worker = await rig.worker("--queues", "all", module="cards", env=env)
        coordinator = await ledger.coordinator(env)
        await rig.send(control, *(job for job, _ in jobs.values()))
        for job, state in jobs.values():
            await ledger.when(job.id, partial(is_in, state), within=60)
        await ledger.when(control.id, lambda row: row["state"] == "succeeded")
        raised, failed = jobs["raised"][0].id, jobs["failed"][0].id
        await run("parked", "show", raised)
        await run("parked", "release", raised, "--queue", "shop")
        await run("jobs", "restart", failed)
        # Six that run once, three that are tried twice (two of them parked and one released, which
        # is tried twice again), and one that fails, is restarted, and fails again.
        await eventually(lambda: len(digests(paid)) == 6 + 3 * 2 + 2 + 2, within=60, every=0.1)
        for name, attempt in (("raised", 4), ("failed", 2)):

            def over(row: dict[str, Any], attempt: int = attempt) -> bool:
                return row["state"] in {"parked", "failed"} and row["attempt"] == attempt

            await ledger.when(jobs[name][0].id, over)
        assert set(digests(paid)) == {DIGEST}

        for job, _ in jobs.values():
            await run("jobs", "show", job.id)
            await run("jobs", "show", job.id, "--json")
        shown = await run("jobs", "show", raised, "--json")
        assert "declined: ‹secret›" in json.loads(shown)["error_message"]
        assert "printed: ‹secret›" in json.loads(shown)["runs"][-1]["output"]
        assert CONTROL in await run("jobs", "show", control.id, "--json")
        assert CONTROL in await run("jobs", "list", "--json", "--with-arguments", "-n", "1000")
        for words in ("jobs list", "jobs failures", "jobs failures --json", "stats --json"):
            await run(*words.split())
        await run("jobs", "list", "--with-arguments", "--arg", f"number={CONTROL}")
        await run("explain", jobs["far"][0].id, "--json")
        await run("explain", raised)
        await run("audit", "--json")
        await run("parked", "list", "--json")
        said.extend([(await rig.probe(each, "/metrics")).text for each in (worker, coordinator)])
        for each in (worker, coordinator):
            each.terminate()
            assert await each.wait_exit(within=20) == 0
            said.append(each.output)
    assert "printed: ‹secret›" in worker.output, "what handlers print is not in what is searched"
    dump = await store.dump()
    assert CONTROL in dump
    assert CARD not in dump
    assert base64.b64encode(CARD.encode()).decode() not in dump
    assert [text for text in said if CARD in text] == []
    await asyncio.to_thread(_assert_not_stored, broker_url.node, store, tmp_path)


def is_in(state: str, row: dict[str, Any]) -> bool:
    """Tell whether a row is in a state."""
    return bool(row["state"] == state)


def digests(paid: Path) -> list[str]:
    """Return what the handlers noted of the numbers that they got."""
    return paid.read_text().splitlines() if paid.exists() else []


def _assert_not_stored(node: Any, store: Store, folder: Path) -> None:
    """Search the files of the database, of the broker and of all processes."""
    with store.at_rest():
        assert found_in(store.folder, CONTROL), "the search finds nothing in the database"
        assert found_in(store.folder, CARD) == []
    assert found_in(folder, CARD) == []
    if node is None:
        return
    node.stop()
    try:
        assert found_in(node.folder, CONTROL), "the search finds nothing in the broker's files"
        assert found_in(node.folder, CARD) == []
    finally:
        node.start()
