"""The suite's room for set-up: what is planned is applied, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.conformance.scene import Room, content, job, publish, take
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Create, plan

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker
    from taskyard.shared.conformance.harness import Harness
    from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Action


async def planned(broker: Broker, spec: SetupSpec) -> list[Action]:
    """Return what a plan would do, with what cannot be verified and is created once more."""
    observed = await broker.observe(spec)
    return plan(broker.desired(spec, observed), observed)


async def missing(broker: Broker, spec: SetupSpec) -> list[Action]:
    """Return what a plan would do and is known to be missing."""
    actions = await planned(broker, spec)
    return [a for a in actions if not (isinstance(a, Create) and a.unverified)]


def spec_of(*names: str, ledger: bool = False) -> SetupSpec:
    """Return the specification of queues of these names."""
    return SetupSpec(queues=tuple(QueueSpec(name=name) for name in names), ledger=ledger)


class Setup(Room):
    """Desired minus observed gives actions; a second plan is empty (design §5)."""

    async def test_a_second_plan_is_empty(self, harness: Harness) -> None:
        """After `apply` nothing is left to do, and applying again does no harm."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        spec = spec_of(queue)
        assert await missing(broker, spec) == []
        await harness.setup([queue])
        assert await missing(broker, spec) == []

    async def test_what_is_missing_is_planned(self, harness: Harness) -> None:
        """A queue that does not exist is an action, and exists after it (BS-17)."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        further = harness.fresh("q")
        spec = spec_of(queue, further)
        assert await missing(broker, spec)
        actions = await planned(broker, spec)
        assert all(isinstance(action, Create) for action in actions)
        await broker.apply(actions)
        assert await missing(broker, spec) == []
        sent = job(further)
        await publish(broker, sent)
        (got,) = await take(harness, await broker.consume(further, credit=1), 1)
        assert content(got.envelope) == content(sent)

    async def test_queues_can_be_listed(self, harness: Harness) -> None:
        """The work queues that exist are listed, sorted, or the broker says in words that it
        cannot be asked (LQ-01, LQ-18).
        """
        names = await harness.queues(3)
        broker = await harness.open()
        listed: list[str] = []
        problem = ""
        try:
            listed.extend(await broker.queues())
        except ConfigurationError as error:
            problem = str(error)
        if problem:
            assert len(problem.split()) >= 3
            return
        assert listed == sorted(set(listed))
        assert set(names) <= set(listed)

    async def test_set_up_leaves_jobs_alone(self, harness: Harness) -> None:
        """Applying again, with a further queue, touches no job that is there."""
        (queue,) = await harness.queues()
        broker = await harness.open()
        sent = job(queue)
        await publish(broker, sent)
        await harness.setup([queue, harness.fresh("q")])
        (got,) = await take(harness, await broker.consume(queue, credit=1), 1)
        assert got.envelope.id == sent.id

    async def test_a_feed_once_there_stays(self, harness: Harness) -> None:
        """Whoever applies without asking for the feed does not take it away (design §5)."""
        (queue,) = await harness.queues(ledger=True)
        broker = await harness.open()
        if not broker.capabilities.feed:
            assert not broker.recording
            return
        assert broker.recording
        await harness.setup([queue], ledger=True)
        assert await missing(broker, spec_of(queue)) == []
        observed = await broker.observe(spec_of(queue))
        kept = broker.desired(spec_of(queue), observed).by_key()
        asked = broker.desired(spec_of(queue, ledger=True), observed).by_key()
        assert set(kept) == set(asked)
        assert (await harness.open()).recording
