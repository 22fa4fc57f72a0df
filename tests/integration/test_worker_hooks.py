"""Hooks around a job's life, and a database looked after by them (LQ-20, LQ-09)."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from examples.database.care import DatabaseCare
from examples.database.pool import Pool
from support.eventually import eventually
from support.ports import free_port
from support.workbench import Workbench
from taskyard.shared import Context, Hold, Hooks, Queue, Retry, RetryPolicy
from taskyard.shared.hooks import idle_hooks
from taskyard.workers.idling import Idling


class Diary(Hooks):
    """Notes each moment."""

    idle_after_s = 0.05

    def __init__(self) -> None:
        self.moments: list[str] = []

    async def before(self, ctx):
        self.moments.append(f"before {ctx.task} {ctx.attempt}")

    async def after(self, ctx, value):
        self.moments.append(f"after {value}")

    async def on_error(self, ctx, error):
        self.moments.append(f"error {error}")
        if isinstance(error, ZeroDivisionError):
            raise Hold("replaced") from error

    async def on_idle(self):
        self.moments.append("idle")


async def test_each_moment_has_its_hook(tmp_path):
    """Before, after, on error and on idle, for `async def` and `def` alike; errors can be replaced."""
    diary = Diary()
    queue = Queue("q", concurrency=1, retry=RetryPolicy(attempts=1), middleware=[diary])

    @queue.task
    async def good() -> str:
        return "done"

    @queue.task
    def bad() -> None:
        raise KeyError("k")

    @queue.task
    async def worse() -> float:
        return 1 / 0

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        await bench.send(good.job(), bad.job(), worse.job())
        await eventually(lambda: "idle" in diary.moments)
        assert diary.moments == [
            "before q.good 1",
            "after done",
            "before q.bad 1",
            "error 'k'",
            "before q.worse 1",
            "error division by zero",
            "idle",
        ]
        assert {p.reason for p in await bench.parking("q")} == {"exhausted", "held"}
        await bench.send(good.job())
        await eventually(lambda: diary.moments[7:] == ["before q.good 1", "after done", "idle"])


async def test_a_failing_idle_hook_is_logged_and_harms_nobody(tmp_path):
    """LQ-20: what `on_idle` raises is the application's own; the worker and its queue go on."""
    told: list[int] = []
    ran: list[int] = []

    class Failing(Hooks):
        idle_after_s = 0.0

        async def on_idle(self) -> None:
            told.append(1)
            raise RuntimeError("no")

    queue = Queue("q", middleware=[Failing()])

    @queue.task
    async def note(n: int) -> None:
        ran.append(n)

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        for n in range(2):
            await bench.send(note.job(n))
            await eventually(lambda: len(told) == len(ran) == n + 1)  # noqa: B023  # awaited here
        assert ran == [0, 1]


async def test_idle_is_told_once_and_not_before_the_first_job():
    """LQ-20: per idle time once; a queue without such hooks is not looked at."""
    diary = Diary()
    idling = Idling("q", [diary])
    idling.look(10.0, idle=True, taken=0)
    idling.look(20.0, idle=True, taken=0)
    idling.look(21.0, idle=True, taken=5)
    idling.look(21.01, idle=True, taken=5)
    await asyncio.sleep(0)
    assert diary.moments == []
    idling.look(22.0, idle=False, taken=5)
    idling.look(30.0, idle=True, taken=5)
    idling.look(40.0, idle=True, taken=5)
    await asyncio.sleep(0)
    assert diary.moments == ["idle"]
    idling.look(41.0, idle=True, taken=6)
    idling.look(42.0, idle=True, taken=6)
    await idling.close()
    assert idle_hooks([Hooks(), diary]) == [diary]


class Database:
    """A TCP server that answers lines; restarting it breaks each connection, as a real one does."""

    def __init__(self) -> None:
        self.port = free_port()
        self.opened = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        await self.server.wait_closed()
        await eventually(lambda: not self.writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(b"re:" + line)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


class Client:
    """A connection to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def query(self, text: str) -> str:
        self.writer.write(text.encode() + b"\n")
        await self.writer.drain()
        answer = await self.reader.readline()
        if not answer:
            raise ConnectionResetError("the server went away")
        return answer.decode().strip()

    async def ping(self) -> None:
        await self.query("ping")

    async def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def shop(tmp_path, *, check_after_s: float, idle_after_s: float = 1000.0):
    database = Database()
    await database.start()

    async def connect() -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", database.port))

    pool = Pool(connect, check_after_s=check_after_s)

    class Care(DatabaseCare):
        pass

    Care.idle_after_s = idle_after_s

    @asynccontextmanager
    async def lifespan():
        yield pool
        await pool.close_idle()

    queue = Queue(
        "q",
        concurrency=1,
        retry=RetryPolicy(attempts=3, first=0.05, factor=1, jitter="none"),
        lifespan=lifespan,
        middleware=[Care(pool)],
    )
    answers: list[tuple[int, str]] = []

    @queue.task
    async def ask(ctx: Context[Pool[Client]], text: str) -> None:
        async with ctx.resources.connection() as connection:
            answers.append((ctx.attempt, await connection.query(text)))

    async with Workbench(queue, folder=tmp_path) as bench:
        await bench.worker()
        yield bench, database, pool, ask, answers
    await database.stop()


async def test_the_database_restarts_between_two_jobs(tmp_path):
    """LQ-20: connections are checked before use, so the next job succeeds in its first attempt."""
    async with shop(tmp_path, check_after_s=0.0) as (bench, database, pool, ask, answers):
        await bench.send(ask.job("a"))
        await eventually(lambda: answers == [(1, "re:a")] and pool.idle == 1)
        await database.stop()
        await database.start()
        await bench.send(ask.job("b"))
        await eventually(lambda: answers[1:] == [(1, "re:b")])
        assert database.opened == 2


async def test_a_database_error_is_a_retry(tmp_path):
    """LQ-09, LQ-20: a connection that breaks under a job costs an attempt, never the job."""
    async with shop(tmp_path, check_after_s=1000.0) as (bench, database, pool, ask, answers):
        await bench.send(ask.job("a"))
        await eventually(lambda: answers == [(1, "re:a")] and pool.idle == 1)
        await database.stop()
        await database.start()
        (job_id,) = await bench.send(ask.job("b"))
        await eventually(lambda: answers[1:] == [(2, "re:b")])

        async def told():
            return [r for r in await bench.records(job_id) if r.outcome == "retried"]

        (retried,) = await eventually(told)
        assert retried.error is not None
        assert retried.error.message.startswith("database: ")


async def test_an_idle_queue_keeps_no_connection(tmp_path):
    """LQ-20: closed before waiting, opened again by the next job."""
    async with shop(tmp_path, check_after_s=0.0, idle_after_s=0.1) as found:
        bench, database, pool, ask, answers = found
        await bench.send(ask.job("a"))
        await eventually(lambda: database.opened == 1 and not database.writers and pool.idle == 0)
        await bench.send(ask.job("b"))
        await eventually(lambda: answers == [(1, "re:a"), (1, "re:b")])
        assert database.opened == 2


async def test_a_pool_recycles_and_drops_what_is_half_done():
    """LQ-20: an old connection is replaced; one whose job was cancelled in mid-query is not lent again."""
    database = Database()
    await database.start()

    async def connect() -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", database.port))

    old = Pool(connect, recycle_after_s=0.0)
    for _ in range(2):
        async with old.connection() as connection:
            assert await connection.query("x") == "re:x"
    await eventually(lambda: database.opened == 2)
    await old.close_idle()
    pool = Pool(connect)
    with pytest.raises(KeyError):
        async with pool.connection():
            raise KeyError
    assert pool.idle == 1
    with pytest.raises(asyncio.CancelledError):
        async with pool.connection():
            raise asyncio.CancelledError
    assert pool.idle == 0
    await database.stop()


def test_a_verdict_of_the_handler_stands():
    """LQ-09: what is no database error is none of the hook's business."""
    care = DatabaseCare(Pool(lambda: pytest.fail("no connection is needed")))

    async def run() -> None:
        async def proceed() -> object:
            raise Retry("mine")

        context: Context[object] = Context.__new__(Context)
        with pytest.raises(Retry, match="mine"):
            await care.execute(context, proceed)

    asyncio.run(run())
