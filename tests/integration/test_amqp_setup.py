"""Setting a real RabbitMQ up: seeing what is there, and bringing it to what is wanted."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import quote

import pytest

from support.amqp_site import Site, jobs, publish
from support.eventually import eventually
from support.rabbitmq import Server, vhost_of
from taskyard.shared.adapters.amqp.layout import existing_types, work_queue
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.broker import ControlBatch, Owner, PublishStatus
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Binding, Create, Differs, QueueObject, arguments

pytestmark = pytest.mark.rabbitmq


async def declare(broker, name: str, **values) -> None:
    async with Questions(await broker.core.reader()) as questions:
        await questions.declare(QueueObject(name, arguments=arguments(values)))


async def first_records(broker) -> ControlBatch:
    async for batch in broker.follow_control():
        return batch
    raise AssertionError("the log ended")


async def test_apply_twice_finds_nothing_to_do(amqp_url: str, rabbitmq_node: Server) -> None:
    """What was applied is seen at once, whole, and applying it again changes nothing (BS-17)."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        broker = await site.open()
        for ledger in (False, True):
            actions = await site.plan(broker, "default", "mail", ledger=ledger)
            assert actions
            await broker.apply(actions)
            assert await site.plan(broker, "default", "mail", ledger=ledger) == []
            await broker.apply(actions)
        assert await site.plan(broker, "default", ledger=False) == []


async def test_without_the_management_api_bindings_are_unverified(amqp_url: str) -> None:
    """Queues and exchanges are found by asking; bindings cannot be, and are bound again."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        await broker.apply(await site.plan(broker, "default", ledger=True))
        observed = await broker.observe(site.spec("default"))
        assert not observed.verified
        actions = await site.plan(broker, "default")
        assert actions
        assert all(isinstance(a, Create) and a.unverified for a in actions)
        assert all(isinstance(a.entity, Binding) for a in actions)
        await broker.apply(actions)


@pytest.mark.parametrize("reachable", [True, False])
async def test_what_differs_is_shown_and_never_replaced(
    amqp_url: str, rabbitmq_node: Server, reachable: bool
) -> None:
    """Another type than asked for, or another argument, is named with both values (BS-17)."""
    management_url = rabbitmq_node.management_url if reachable else None
    async with Site(amqp_url, management_url) as site:
        broker = await site.open()
        await broker.apply(await site.plan(broker, "one:classic", "two:quorum"))
        await declare(broker, "taskyard.parked.three", **{"x-queue-type": "classic"})
        (lot,) = [a for a in await site.plan(broker, "three") if isinstance(a, Differs)]
        assert lot.entity.key == ("queue", "taskyard.parked.three")
        turned = [
            action
            for action in await site.plan(broker, "one:quorum", "two:classic")
            if isinstance(action, Differs)
        ]
        assert {a.entity.key[1] for a in turned} == {"taskyard.q.one", "taskyard.q.two"}
        with pytest.raises(ConfigurationError, match=r"nothing was changed.*taskyard\.q\.one"):
            await broker.apply(turned)


async def test_auto_sticks_to_the_type_that_exists(amqp_url: str, rabbitmq_node: Server) -> None:
    """`auto` is resolved once: whatever type is there stays, seen by either way."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site, Site(amqp_url) as blind:
        broker, other = await site.open(), await blind.open()
        await broker.apply(await site.plan(broker, "one:classic", "two:quorum"))
        assert await site.plan(broker, "one", "two") == []
        for action in await blind.plan(other, "one", "two"):
            assert isinstance(action, Create)
            assert action.unverified


async def test_a_refused_declaration_names_everything(amqp_url: str) -> None:
    """The broker's 406 becomes an error that names object, argument and both values."""
    async with Site(amqp_url) as site:
        broker = await site.open()
        actions = await site.plan(broker, "default:classic")
        await declare(broker, "taskyard.q.default", **{"x-max-priority": 5})
        with pytest.raises(ConfigurationError) as caught:
            await broker.apply(actions)
        for part in ("queue", "taskyard.q.default", "x-max-priority", "5", "9"):
            assert part in str(caught.value)


async def test_concurrent_applies_agree(amqp_url: str, rabbitmq_node: Server) -> None:
    """Several processes may set the same broker up at once (BS-17)."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        handles = [await site.open() for _ in range(3)]
        plans = [await site.plan(each, "default", "mail", ledger=True) for each in handles]
        await asyncio.gather(
            *(each.apply(actions) for each, actions in zip(handles, plans, strict=True))
        )
        assert await site.plan(handles[0], "default", "mail", ledger=True) == []
        batch = await first_records(handles[0])
        assert {record.op for record in batch.records} == {"genesis"}


async def test_the_ledger_stays_on(amqp_url: str, rabbitmq_node: Server) -> None:
    """Recording stays on when `apply` runs without the flag, and new queues are recorded too."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        await site.set_up("default", ledger=True)
        broker = await site.set_up("default", "later")
        assert broker.recording
        await publish(broker, [*jobs("default", 2), *jobs("later", 3)])
        feed = await broker.feed(credit=10)
        seen: list[str] = []
        async with asyncio.timeout(10):
            while len(seen) < 5:
                seen += [i.envelope.queue for i in await feed.take() if i.envelope is not None]
        assert sorted(seen) == ["default"] * 2 + ["later"] * 3


async def test_turning_the_ledger_on_records_every_queue(
    amqp_url: str, rabbitmq_node: Server
) -> None:
    """Queues that others have set up are bound to the feed as well."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        await site.set_up("others")
        broker = await site.set_up("mine", ledger=True)
        await publish(broker, jobs("others", 1))
        feed = await broker.feed(credit=10)
        async with asyncio.timeout(10):
            (item,) = await feed.take()
        assert item.envelope is not None
        assert item.envelope.queue == "others"


async def test_length_limits_on_dead_letter_targets_are_refused(
    amqp_url: str, rabbitmq_node: Server
) -> None:
    """A limit by argument or by policy on a lot, a ladder's level or a work queue differs."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        broker = await site.set_up("default")
        vhost = vhost_of(amqp_url).replace("/", "%2F")
        rabbitmq_node.blocking.management.request(
            "PUT",
            f"policies/{vhost}/tight",
            {
                "pattern": r"^taskyard\.(parked|q|delay)\.",
                "definition": {"max-length": 10},
                "apply-to": "queues",
            },
        )

        limited_by_policy = {
            "taskyard.parked.default",
            "taskyard.q.default",
            "taskyard.delay.00.1",
        }

        async def seen() -> list[Differs]:
            found = await site.plan(broker, "default")
            differing = [action for action in found if isinstance(action, Differs)]
            named = {action.entity.key[1] for action in differing}
            return differing if limited_by_policy <= named else []

        differing = await eventually(seen, hint="the policy seen")
        assert "policy max-length is 10, wanted None" in str(differing[0].differences[0])
        limited = {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000, "x-max-length": 5}
        await declare(broker, "taskyard.parked.other", **limited)
        found = [a for a in await site.plan(broker, "other") if isinstance(a, Differs)]
        (own,) = [a for a in found if a.entity.key[1] == "taskyard.parked.other"]
        assert any(d.facet == "x-max-length" for d in own.differences)


async def test_a_queue_with_jobs_is_not_removed(amqp_url: str, rabbitmq_node: Server) -> None:
    """A removal that would lose jobs is refused in words; an empty queue goes with its bindings."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        broker = await site.set_up("default", "old", ledger=True)
        await publish(broker, jobs("old", 2))
        kinds = await broker.observe(site.spec())
        names = broker.core.names
        kind = existing_types(names, kinds)["old"]
        retired = [
            e
            for e in work_queue(names, "old", kind, recorded=True)
            if e.key != ("queue", names.known)
        ]
        actions = await site.plan(broker, "default", retired=retired)
        with pytest.raises(ConfigurationError, match=r"taskyard\.q\.old is not deleted.*2 jobs"):
            await broker.apply(actions)
        rabbitmq_node.blocking.purge_queue(amqp_url, "taskyard.q.old")
        await broker.apply(await site.plan(broker, "default", retired=retired))
        (receipt,) = await broker.publish(jobs("old", 1), deadline_s=10)
        assert receipt.status is PublishStatus.UNROUTABLE
        assert "old" not in await broker.queues()


async def test_namespaces_do_not_see_each_other(amqp_url: str, rabbitmq_node: Server) -> None:
    """Two installations share a virtual host without touching each other."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        one = await site.open(namespace="one")
        two = await site.open(namespace="one-more")
        await one.apply(await site.plan(one, "default"))
        await two.apply(await site.plan(two, "mail"))
        assert await one.queues() == ["default"]
        assert await two.queues() == ["mail"]
        assert {e.key[1].split(".")[0] for e in await one.observe(site.spec())} >= {"one"}
        assert await site.plan(one, "default") == []


async def test_a_job_whose_queue_went_away_is_orphaned_not_lost(
    amqp_url: str, rabbitmq_node: Server
) -> None:
    """A delayed job whose queue is deleted by hand ends in the orphans' queue (promise 3)."""
    async with Site(amqp_url, rabbitmq_node.management_url) as site:
        broker = await site.set_up("default", "gone")
        soon = broker.now_ms() + 700
        await publish(broker, jobs("gone", 3, not_before_ms=soon))
        rabbitmq_node.blocking.delete_queue(amqp_url, "taskyard.q.gone")

        async def orphans() -> bool:
            async with Questions(await broker.core.reader()) as questions:
                return await questions.depth("taskyard.orphaned") == (3, 0)

        await eventually(orphans, within=10, hint="three orphans")


async def test_cluster_and_version_decide_before_anything_is_changed(amqp_url: str) -> None:
    """A list of nodes in the URL means a cluster; before 4.3 the operator must choose a type."""
    async with Site(amqp_url) as site:
        login, _, rest = amqp_url.rpartition("@")
        host, _, vhost = rest.partition("/")
        broker = await site.open(f"{login}@{host},{host}/{vhost}")
        if broker.core.publish_link.server_version >= (4, 3):
            assert await site.plan(broker, "default")
            return
        with pytest.raises(ConfigurationError, match=r"(?s)'default'.*quorum.*classic"):
            await site.plan(broker, "default")
        assert await site.plan(broker, "default:classic")


async def test_a_user_without_rights_is_told_so(amqp_url: str, rabbitmq_node: Server) -> None:
    """Who may only read and write jobs cannot set up, and reads why; looking at a lot works."""
    management = rabbitmq_node.blocking.management
    vhost, user = vhost_of(amqp_url), f"reader-{secrets.token_hex(4)}"
    management.request("PUT", f"users/{user}", {"password": user, "tags": ""})
    rights = {"configure": "^$", "write": ".*", "read": ".*"}
    management.request("PUT", f"permissions/{quote(vhost, safe='')}/{user}", rights)
    _, _, place = amqp_url.rpartition("@")
    try:
        async with Site(f"amqp://{user}:{user}@{place}") as low, Site(amqp_url) as site:
            broker = await low.open()
            actions = await site.plan(await site.open(), "default")
            with pytest.raises(ConfigurationError, match="lacks a permission"):
                await broker.apply(actions)
            await site.set_up("default")
            assert [job async for job in broker.parked("default")] == []
            with pytest.raises(ConfigurationError, match="access to queue"):
                await broker.lock("mine", Owner(host="here", pid=1, since_ms=1))
            with pytest.raises(ConfigurationError, match="no replies"):
                await broker.inbox()
    finally:
        management.request("DELETE", f"users/{user}")
