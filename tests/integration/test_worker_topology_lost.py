"""A worker whose queues, exchanges or whole broker are taken away and set up again, on RabbitMQ."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.process import run_taskyard
from support.rabbitmq import Server
from support.rig import QUEUE, SELFTEST, Rig
from support.server import vhost_of
from taskyard.broker_setup.intents import read_intents
from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.broker import ORPHANS
from taskyard.shared.control import cancel_record, pause_record, resume_record
from taskyard.shared.errors import Unroutable

AGAIN_WITHIN_S = 10.0
NAMES = Names()


@pytest.fixture
def target(amqp_url, rabbitmq_node):
    return BrokerUnderTest(
        url=amqp_url,
        kind="rabbitmq",
        version=rabbitmq_node.version,
        management_url=rabbitmq_node.management_url,
    )


async def apply(rig: Rig, *options: str) -> None:
    """Set the broker up as an operator does."""
    command = ("broker", "apply", *options, SELFTEST)
    code, output = await asyncio.to_thread(
        run_taskyard, *command, log=rig.folder / "apply.log", env=rig.env()
    )
    assert code == 0, output


async def unready(rig: Rig, worker, *words: str) -> None:
    """Wait until the worker says that it is not ready, in these words, though it lives."""
    said = ""

    async def says() -> bool:
        nonlocal said
        answer = await rig.probe(worker, "/readyz")
        said = " ".join(answer.json()["problems"])
        return answer.status_code == 503 and all(word in said for word in words)

    await eventually(says, within=15, every=0.1, hint=f"unready with {words}")
    assert (await rig.probe(worker, "/livez")).status_code == 200


async def put_aside(rig: Rig) -> list[str]:
    """Return the ids of the jobs that wait for a human."""
    return [job.envelope.id for queue in (QUEUE, ORPHANS) async for job in rig.broker.parked(queue)]


async def works_again(rig: Rig, worker) -> None:
    """Wait until a job sent now is run by the same process, in time."""
    await rig.ready(worker, within=AGAIN_WITHIN_S)
    (job_id,) = await rig.send(rig.note("again"))
    await eventually(lambda: rig.seen(job_id), within=AGAIN_WITHIN_S)
    assert worker.is_running


async def test_a_deleted_queue_is_named_and_consumed_again(
    target, rabbitmq_node, taskyard, tmp_path
):
    """Pains 3 and 16: the broker cancels the consumer; the worker says which queue is missing and
    what to do, and consumes within 10 s of its return, without a restart.
    """
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        await rig.send(rig.job("sleep", {"seconds": 3}))  # its delivery goes with the queue

        async def running() -> bool:
            return await rig.metric(worker, "jobs_running", queue=QUEUE) == 1

        await eventually(running)
        await rabbitmq_node.delete_queue(target.url, f"taskyard.q.{QUEUE}")
        await unready(rig, worker, f"taskyard.q.{QUEUE}", "taskyard broker apply")
        await apply(rig)
        await works_again(rig, worker)


async def test_a_broker_that_came_back_empty_is_named_and_used_again(
    target, rabbitmq_node, taskyard, tmp_path
):
    """Pain 4: everything is gone after a reconnect. The worker and producers say what is missing
    and what to do; set up again, the same processes go on, and a pause is honoured as before.
    """
    management = rabbitmq_node.blocking.management
    vhost = vhost_of(target.url)
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        await works_again(rig, worker)
        await asyncio.to_thread(management.delete_vhost, vhost)
        await asyncio.to_thread(management.add_vhost, vhost)
        await unready(rig, worker, f"taskyard.q.{QUEUE}", "control log", "taskyard broker apply")

        async def refused() -> bool:
            try:
                await rig.producer.send(rig.note("nowhere"))
            except Unroutable as error:
                return "taskyard broker apply" in str(error)
            except Exception:  # the connection is on its way back
                return False
            raise AssertionError("a job was accepted by an empty broker")

        await eventually(refused, within=20, every=0.2)
        await apply(rig)
        await works_again(rig, worker)
        await rig.intend(pause_record(QUEUE, by="test", at_ms=rig.broker.now_ms()))
        await worker.wait_line("queue paused", within=AGAIN_WITHIN_S)


@pytest.mark.parametrize("gone", ["tasks", "parked", "lot"])
async def test_jobs_survive_the_loss_of_what_they_are_published_to(
    target, rabbitmq_node, taskyard, tmp_path, gone
):
    """Pain 10: what must be retried or parked, and cannot, keeps its delivery and is tried again
    until the exchange is back; without its parking lot it is put with the orphans.
    """
    management = rabbitmq_node.blocking.management
    vhost = quote(vhost_of(target.url), safe="")
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        task, args = ("retry", {"in_seconds": 0}) if gone == "tasks" else ("hold", {})
        await rig.send(rig.job("sleep", {"seconds": 1}))
        (job_id,) = await rig.send(rig.job(task, args, delay=1.0))
        if gone == "lot":
            await rabbitmq_node.delete_queue(target.url, f"taskyard.parked.{QUEUE}")
            (orphan,) = await rig.parked(queue=ORPHANS)
            assert orphan.envelope.id == job_id
            return
        path = f"exchanges/{vhost}/taskyard.{gone}"
        await asyncio.to_thread(management.request, "DELETE", path)
        await worker.wait_line("settlements are tried again", within=15)
        assert json.loads(await worker.wait_line("settlements are tried again"))["settlements"] == 1
        await apply(rig)
        if gone == "parked":  # with the orphans, if it came between the exchange and its binding
            assert await eventually(lambda: put_aside(rig), within=15, every=0.2) == [job_id]
        await rig.emptied()
        await works_again(rig, worker)


async def test_intents_outlive_their_log(target, rabbitmq_node, taskyard, tmp_path):
    """Promise 5: the stream is deleted and made anew: what the workers know of it is in it again, so
    that one that starts later honours a pause and a cancel; what was resumed meanwhile stays so.
    """
    names = (QUEUE, "other", "meanwhile")
    async with Rig(target, taskyard, tmp_path, queues=names) as rig:
        worker = await rig.worker("--queues", QUEUE)
        now_ms = rig.broker.now_ms()
        cancelled = rig.note("cancelled")
        await rig.intend(
            *(pause_record(name, by="night shift", at_ms=now_ms) for name in names),
            cancel_record(cancelled.id, by="night shift", at_ms=now_ms),
        )
        await worker.wait_line("paused", within=10)
        await rabbitmq_node.delete_queue(target.url, "taskyard.control")
        await unready(rig, worker, "control log", "taskyard broker apply")
        await apply(rig)
        await rig.intend(resume_record("meanwhile", by="day shift", at_ms=now_ms + 1))

        async def written_again() -> bool:
            paused = (await read_intents(rig.broker)).paused(now_ms)
            return set(paused) == {QUEUE, "other"}

        await eventually(written_again, within=20, every=0.2)
        worker.terminate()
        assert await worker.wait_exit(within=20) == 0
        await rig.worker("--queues", QUEUE)
        await rig.send(cancelled, rig.note("waits"))
        await rig.intend(resume_record(QUEUE, by="day shift", at_ms=now_ms + 1))
        (run,) = await rig.noted(1)
        assert run["line"] == "waits"
        await rig.emptied()
        assert rig.seen(cancelled.id) == []


#: Has the broker drop a queue's consumers and tell nobody: a classic queue is a process, a quorum
#: queue a Raft machine.
FORGET = """
{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"VHOST">>, queue, <<"taskyard.q.QUEUE">>)),
Forget = fun(Server, Channel, Tag) when is_pid(Server) ->
                 gen_server2:call(Server, {basic_cancel, Channel, Tag, undefined, <<"test">>});
            (Server, Channel, Tag) ->
                 ra:process_command(Server, rabbit_fifo:make_checkout({Tag, Channel}, cancel, #{}))
         end,
[Forget(amqqueue:get_pid(Queue), element(1, Consumer), element(2, Consumer))
 || Consumer <- rabbit_amqqueue:consumers(Queue)].
"""


@pytest.mark.slow
async def test_a_consumer_that_the_broker_forgot_is_opened_anew(
    target, rabbitmq_node, taskyard, tmp_path
):
    """Pain 3: the broker drops the consumer and tells nobody. The worker sees that jobs are ready and
    none comes, and consumes again by itself; the job that runs meanwhile is not disturbed.
    """
    forget = FORGET.replace("VHOST", vhost_of(target.url)).replace("QUEUE", QUEUE)
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        await rig.send(rig.job("sleep", {"seconds": 25}))

        async def running() -> bool:
            return await rig.metric(worker, "jobs_running", queue=QUEUE) == 1

        await eventually(running)
        assert "ok" in await rabbitmq_node.ctl("eval", forget)
        (job_id,) = await rig.send(rig.note("waits"))
        await eventually(lambda: rig.seen(job_id), within=30)
        await worker.wait_line("jobs are ready and none is delivered")
        assert await rig.metric(worker, "consumers_renewed_total", queue=QUEUE) == 1

        async def ended() -> bool:
            finished = await rig.metric(
                worker, "jobs_finished_total", task="sleep", outcome="succeeded"
            )
            return finished == 1

        await eventually(ended, within=30)
        await rig.emptied()


#: Where a retry in two seconds waits: here first, then at the level below.
FIRST_HOLD, SECOND_HOLD = ladder.hops(ladder.ticks(2_000))


async def lose(rig: Rig, node: Server, part: str) -> None:
    """Take one small part of the broker away: `binding`, or a queue by its name."""
    if part != "binding":
        await node.delete_queue(rig.target.url, part)
        return
    vhost = quote(vhost_of(rig.target.url), safe="")
    path = f"bindings/{vhost}/e/{NAMES.tasks}/q/{NAMES.work_queue(QUEUE)}/{QUEUE}"
    await asyncio.to_thread(node.blocking.management.request, "DELETE", path)


@pytest.mark.parametrize("gone", ["binding", NAMES.delay_hold(*FIRST_HOLD)])
async def test_a_retry_waits_for_the_part_that_it_goes_through(
    target, rabbitmq_node, taskyard, tmp_path, gone
):
    """Pain 10: without its queue's binding, or the queue where it is to wait, a retry cannot be
    stored. It keeps its delivery until the broker is set up again; who sends such a job is told.
    """
    in_s = 0 if gone == "binding" else 2
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        (first,) = await rig.send(rig.job("retry", {"in_seconds": in_s}, delay=1.0))
        await lose(rig, rabbitmq_node, gone)
        await worker.wait_line("settlements are tried again", within=15)
        with pytest.raises(Unroutable):
            await rig.producer.send(rig.note("refused", delay=float(in_s)))
        await apply(rig)

        async def ended() -> bool:
            retried = await rig.metric(
                worker, "jobs_finished_total", task="retry", outcome="succeeded"
            )
            return retried == 1

        await eventually(ended, within=20, every=0.1)
        await rig.emptied()
        assert first not in await put_aside(rig)
        await works_again(rig, worker)
        assert [run["line"] for run in rig.seen()] == ["again"]


async def test_a_job_whose_way_ends_is_put_with_the_orphans(
    target, rabbitmq_node, taskyard, tmp_path
):
    """A queue further on in its delay is gone: the job is put aside, whole, for a human."""
    async with Rig(target, taskyard, tmp_path) as rig:
        worker = await rig.worker("--concurrency", "2")
        await lose(rig, rabbitmq_node, NAMES.delay_hold(*SECOND_HOLD))
        sent = await rig.send(rig.job("retry", {"in_seconds": 2}), rig.note("later", delay=2.0))
        found = await rig.parked(2, queue=ORPHANS)
        assert {job.envelope.id for job in found} == set(sent)
        await apply(rig)
        await works_again(rig, worker)


async def test_the_feed_gets_what_was_done_while_it_was_gone(
    target, rabbitmq_node, taskyard, tmp_path
):
    """Promise 4: the feed's queue is deleted. Jobs run as ever; what the feed did not take is kept
    on disk, and handed over once the queue is there again.
    """
    async with Rig(target, taskyard, tmp_path, ledger=True) as rig:
        worker = await rig.worker("--concurrency", "2")
        await lose(rig, rabbitmq_node, NAMES.ledger)
        sent = set(await rig.send(*(rig.note(f"{n}") for n in range(50))))
        await rig.noted(50)
        await rig.emptied()
        assert (await rig.probe(worker, "/readyz")).status_code == 200
        await apply(rig, "--ledger")

        feed = await rig.broker.feed(credit=500)
        recorded: set[str] = set()
        async with asyncio.timeout(45):
            while not sent <= recorded:
                items = await feed.take()
                recorded |= {each.job for item in items for each in item.records}
                await feed.ack(items)
        await feed.stop()
        assert await rig.metric(worker, "unrecorded_total") == 0


@pytest.mark.slow
async def test_a_feed_that_stays_away_is_named(target, rabbitmq_node, taskyard, tmp_path):
    """Whoever looks into the log learns within half a minute that nothing is recorded any more."""
    async with Rig(target, taskyard, tmp_path, ledger=True) as rig:
        worker = await rig.worker("--concurrency", "2")
        await lose(rig, rabbitmq_node, NAMES.ledger)
        said = json.loads(await worker.wait_line("the feed is gone", within=40))
        assert said["queue"] == NAMES.ledger
        assert "taskyard broker apply --ledger" in said["event"]
        await works_again(rig, worker)
