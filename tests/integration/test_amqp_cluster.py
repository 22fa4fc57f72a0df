"""A three-node broker of which one node dies: what is replicated goes on, the rest is made anew."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from support.amqp_site import Site, jobs, publish
from support.broker import BrokerUnderTest
from support.cluster import Cluster
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.rig import Rig
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.broker import Held, Owner, PublishStatus, Settlement
from taskyard.shared.control import cancel_record
from taskyard.shared.envelope import Envelope
from taskyard.shared.errors import Unavailable

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.system]

NAMES = Names()
#: From here on a node that is away keeps its exclusive queues.
KEEPS_LOCKS = (4, 2)
#: From here on a queue waits for the consumers of a node that is away.
WAITS_FOR_NODES = (4, 3)
ME = Owner(host="here", pid=1, since_ms=1)
OTHER = Owner(host="there", pid=2, since_ms=2)


def due_in(seconds: float, queue: str = "default", count: int = 1) -> list[Envelope]:
    """Return new jobs that are due later."""
    due_ms = round((time.time() + seconds) * 1000)
    return [msgspec.structs.replace(job, not_before_ms=due_ms) for job in jobs(queue, count)]


async def work_off(broker: AmqpBroker, count: int, *, queue: str = "default") -> set[str]:
    """Take so many jobs, settle them, and return their ids."""
    consumer = await broker.consume(queue, credit=50)
    done: set[str] = set()
    async with asyncio.timeout(40):
        while len(done) < count:
            batch = await consumer.take()
            await broker.settle([Settlement(delivery=each) for each in batch], deadline_s=20)
            done |= {each.envelope.id for each in batch}
    await consumer.stop()
    return done


def site_of(target: BrokerUnderTest, management_url: str | None = None) -> Site:
    """Return the broker, with queues of the replicated type."""
    return Site(target.url, management_url, kind="quorum")


async def test_delayed_jobs_need_no_single_node(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """Whichever node dies, that of the sink that says whether a queue exists, too: delayed jobs are
    taken and run when they are due, and those for no queue are refused.
    """
    async with site_of(cluster_broker) as site:
        before = await site.set_up("default")
        waiting = due_in(4.0, count=20)
        await publish(before, waiting)
        victim = cluster.leader(cluster_broker.url, NAMES.known)
        await asyncio.to_thread(victim.kill)

        # It remembers no queue, and asks before there is a new leader: RabbitMQ 3.x refuses that,
        # and would go on to do so on the same channel.
        broker = await site.open()
        later = due_in(4.0, count=20)
        await eventually(lambda: published(broker, later), within=10, every=0.3)
        (refused,) = await broker.publish(due_in(1.0, "nowhere"), deadline_s=20)
        assert refused.status is PublishStatus.UNROUTABLE
        assert "there is no queue 'nowhere'" in refused.detail
        assert await work_off(broker, 40) == {job.id for job in waiting + later}


async def test_what_a_dead_node_had_given_out_goes_to_others(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """Jobs in the hands of connections to a dead node come to others, flagged: at once, or, where
    RabbitMQ waits for the node, after the time that its operator has set.
    """
    policy = {
        "pattern": ".*",
        "definition": {"consumer-disconnected-timeout": 3000},
        "apply-to": "quorum_queues",
    }
    async with site_of(cluster_broker) as site:
        if cluster_broker.version_tuple >= WAITS_FOR_NODES:
            cluster.management.request("PUT", f"policies/{vhost(cluster_broker)}/soon", policy)
        await site.set_up("default")
        leader = cluster.leader(cluster_broker.url, NAMES.work_queue("default"))
        other = next(member for member in cluster.members if member is not leader)
        there = await site.open(leader.url_of(vhost(cluster_broker)))
        here = await site.open(other.url_of(vhost(cluster_broker)))
        held = await there.consume("default", credit=10)
        await publish(here, jobs("default", 1))
        (first,) = await held.take()
        await asyncio.to_thread(leader.kill)
        consumer = await here.consume("default", credit=10)
        async with asyncio.timeout(20):
            (again,) = await consumer.take()
        assert again.envelope.id == first.envelope.id
        assert again.redelivered
        await here.settle([Settlement(delivery=again)], deadline_s=20)


async def test_the_control_log_outlives_its_leader(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """What was written stays, what is written meanwhile is there; readers come back to it."""
    async with site_of(cluster_broker) as site:
        broker = await site.set_up("default")
        await broker.append_control([cancel_record("a" * 32, by="a@b", at_ms=1)], deadline_s=20)
        await asyncio.to_thread(cluster.leader(cluster_broker.url, NAMES.control).kill)
        second = cancel_record("b" * 32, by="a@b", at_ms=2)
        await eventually(lambda: written(broker, second), within=30, every=0.2)

        async def targets() -> list[str]:
            async for batch in broker.follow_control(None):
                if batch.caught_up:
                    return [str(record) for record in batch.records]
            return []

        read = await eventually(targets, within=30, every=0.2)
        assert any("a" * 32 in text for text in read)
        assert any("b" * 32 in text for text in read)


async def published(broker: AmqpBroker, envelopes: list[Envelope]) -> bool:
    """Publish jobs; say whether each was confirmed."""
    receipts = await broker.publish(envelopes, deadline_s=20)
    return {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}


async def written(broker: AmqpBroker, record) -> bool:
    """Write to the control log; writing the same again is harmless."""
    await broker.append_control([record], deadline_s=5)
    return True


async def test_a_lock_outlives_its_node_at_most_until_that_is_back(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """Its holder is told at once. Another can have it at once before RabbitMQ 4.2; from then on
    the broker keeps it for its node, which may be cut off only, until that is back.
    """
    async with site_of(cluster_broker) as site:
        await site.set_up("default")
        member, rest = cluster.members[0], cluster.members[1]
        holder = await site.open(member.url_of(vhost(cluster_broker)))
        rival = await site.open(rest.url_of(vhost(cluster_broker)))
        lease = await holder.lock("singleton", ME)
        assert not isinstance(lease, Held)
        assert isinstance(await rival.lock("singleton", OTHER), Held)
        await asyncio.to_thread(member.kill)
        async with asyncio.timeout(5):
            await lease.wait_lost()
        if cluster_broker.version_tuple >= KEEPS_LOCKS:
            with pytest.raises(Unavailable, match="lock.singleton; the node that holds it may be"):
                await rival.lock("singleton", OTHER)
            await asyncio.to_thread(member.start)

        async def taken() -> bool:
            return not isinstance(await rival.lock("singleton", OTHER), Held)

        await eventually(taken, within=40, every=0.4)


async def test_replies_reach_an_address_whose_node_died(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """The address is kept over the move to another node: what is sent after it arrives."""
    async with site_of(cluster_broker) as site:
        broker, worker = await site.set_up("default"), await site.open()
        inbox = await broker.inbox()
        link = broker.core.reader_link
        assert link is not None
        assert link.connection is not None
        port = link.connection.params.port
        (home,) = [each for each in cluster.members if each.address.amqp_port == port]
        await asyncio.to_thread(home.kill)
        moved = link.generation + 1
        await eventually(lambda: link.connected and link.generation >= moved, within=20)

        consumer = await worker.consume("default", credit=1)

        async def answered() -> list[bytes]:
            # A reply that comes before the address is there again is lost, as promised.
            job = msgspec.structs.replace(jobs("default", 1)[0], reply=(inbox.address,))
            await publish(worker, [job])
            (delivery,) = await consumer.take()
            replies = ((inbox.address, b"done"),)
            await worker.settle([Settlement(delivery=delivery, replies=replies)], deadline_s=20)
            async with asyncio.timeout(2):
                return list(await inbox.take())

        assert set(await eventually(answered, within=40)) == {b"done"}


async def test_setting_up_goes_on_without_one_node(
    cluster: Cluster, cluster_broker: BrokerUnderTest
) -> None:
    """A queue can be added while a node is dead, with the management API and without."""
    async with site_of(cluster_broker) as blind:
        await blind.set_up("default")
        victim = cluster.leader(cluster_broker.url, NAMES.known)
        await asyncio.to_thread(victim.kill)
        async with site_of(cluster_broker, cluster.running[0].management_url) as seeing:
            for site, queue in ((seeing, "second"), (blind, "third")):
                broker = await site.set_up("default", queue)
                sent = jobs(queue, 5)
                await publish(broker, sent)
                assert await work_off(broker, 5, queue=queue) == {job.id for job in sent}


async def test_a_worker_starts_without_one_node(
    cluster: Cluster, cluster_broker: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path
) -> None:
    """A worker needs no node in particular: it starts while any is dead, and runs jobs."""
    async with Rig(cluster_broker, taskyard, tmp_path) as rig:
        await asyncio.to_thread(cluster.leader(cluster_broker.url, NAMES.control).kill)
        await rig.worker()
        await rig.send(rig.note("here"), rig.note("later", delay=1.0))
        await rig.noted(2)


def vhost(target: BrokerUnderTest) -> str:
    """Return the name of its virtual host."""
    return target.url.rpartition("/")[2]
