"""`plan`: from desired and observed to actions, in an order that is safe to apply."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from taskyard.shared.adapters.amqp.layout import layout, work_queue
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.topology import (
    Binding,
    Create,
    Differs,
    Exchange,
    QueueObject,
    Remove,
    Stage,
    Topology,
    WorkQueue,
    apply_to,
    arguments,
    plan,
)

NAMES = Names()
SMALL = st.sampled_from(["a", "b", "c", "d"])
ARGUMENTS = st.dictionaries(st.sampled_from(["x-one", "x-two"]), st.integers(0, 2)).map(arguments)
ENTITIES = st.one_of(
    st.builds(Exchange, SMALL, st.sampled_from(["direct", "topic"]), st.just(True), ARGUMENTS),
    st.builds(QueueObject, SMALL, st.just(True), ARGUMENTS),
    st.builds(Binding, SMALL, SMALL, st.sampled_from(["queue", "exchange"]), SMALL),
    st.builds(WorkQueue, SMALL),
)
TOPOLOGIES = st.lists(ENTITIES, unique_by=lambda entity: entity.key).map(Topology.of)
FULL = layout(NAMES, [("default", "quorum"), ("mail", "classic")], feed="classic")


@given(desired=TOPOLOGIES)
def test_nothing_is_to_do_when_all_is_there(desired: Topology) -> None:
    """A second apply does nothing."""
    assert plan(desired, desired) == []


@given(desired=TOPOLOGIES, observed=TOPOLOGIES)
def test_applying_a_plan_leaves_only_differences(desired: Topology, observed: Topology) -> None:
    """What was missing exists, what differs is still shown, what was there is still there."""
    after = apply_to(observed, plan(desired, observed))

    assert all(isinstance(action, Differs) for action in plan(desired, after))
    assert {e.key for e in after} == {e.key for e in desired} | {e.key for e in observed}


@given(desired=TOPOLOGIES, observed=TOPOLOGIES)
def test_what_exists_is_never_replaced(desired: Topology, observed: Topology) -> None:
    """No immutable difference is resolved by deleting: without `retired` nothing goes."""
    assert not [a for a in plan(desired, observed) if isinstance(a, Remove)]
    after = apply_to(observed, plan(desired, observed)).by_key()
    assert all(after[entity.key] == entity for entity in observed)


@given(desired=TOPOLOGIES, observed=TOPOLOGIES, retired=st.lists(ENTITIES, max_size=4))
def test_retired_entities_go_unless_they_are_wanted(desired, observed, retired) -> None:
    """Removal takes the bindings at both ends along, and never what is desired."""
    wanted = {entity.key for entity in desired}
    after = apply_to(observed, plan(desired, observed, retired=retired)).by_key()
    going = {entity.key for entity in retired} - wanted

    assert not going & after.keys()
    assert wanted <= after.keys()
    for entity in after.values():
        assert entity.key in wanted or not going & set(entity.ends())


def test_an_empty_broker_gets_everything_in_a_safe_order() -> None:
    """Exchanges, queues, bindings; those that only record or prove come last of all."""
    stages = [action.entity.stage for action in plan(FULL, Topology())]
    assert stages == sorted(stages)
    assert len(stages) == len(FULL)
    assert stages[-1] is Stage.WITNESS


def test_a_route_exists_before_its_witness_whatever_is_missing() -> None:
    """With the feed's binding alone a mandatory publish would succeed and the job be lost."""
    job, copy = (
        Binding(NAMES.tasks, NAMES.work_queue("mail"), routing_key="mail"),
        Binding(NAMES.tasks, NAMES.ledger, routing_key="mail", witness=True),
    )
    partly = Topology(FULL.entities - {job, copy})
    assert plan(FULL, partly) == [Create(job), Create(copy)]


def test_a_queue_is_removed_behind_its_witnesses() -> None:
    """Feed and probe first, then its own bindings, then the queue: read back without a flag."""
    seen = Topology.of(
        replace(e, witness=False) if isinstance(e, Binding) else e for e in FULL.entities
    )
    retired = work_queue(NAMES, "mail", "classic", recorded=True)
    desired = layout(NAMES, [("default", "quorum")], feed="classic")

    removed = [action.entity for action in plan(desired, seen, retired=retired)]

    first, last = removed[:2], removed[-2:]
    assert {e.key for e in first} == {
        ("binding", NAMES.known, "queue", NAMES.known, "mail"),
        ("binding", NAMES.tasks, "queue", NAMES.ledger, "mail"),
    }
    assert {e.key[0] for e in removed[2:-2]} == {"binding"}
    assert {e.key for e in last} == {
        ("queue", NAMES.work_queue("mail")),
        ("queue", NAMES.parked_queue("mail")),
    }


def test_bindings_that_could_not_be_seen_are_made_again_and_said_so() -> None:
    """Without the management API a binding's absence proves nothing; making it again is harmless."""
    blind = Topology.of((e for e in FULL if not isinstance(e, Binding)), verified=False)
    actions = plan(FULL, blind)
    assert {type(a.entity) for a in actions} == {Binding}
    assert all(isinstance(a, Create) and a.unverified for a in actions)


def test_unseen_bindings_of_a_retired_queue_are_removed_too() -> None:
    """Where bindings cannot be listed, those that the caller names are removed all the same."""
    blind = Topology.of((e for e in FULL if not isinstance(e, Binding)), verified=False)
    retired = work_queue(NAMES, "mail", "classic", recorded=True)
    removed = {
        action.entity.key
        for action in plan(layout(NAMES, [], feed="classic"), blind, retired=retired)
        if isinstance(action, Remove)
    }
    assert removed == {entity.key for entity in retired}


def test_a_difference_names_both_sides() -> None:
    """Shown in words, the queue is kept."""
    want, have = (
        QueueObject("q", arguments=arguments({"x-queue-type": kind}))
        for kind in ("quorum", "classic")
    )
    (action,) = plan(Topology.of([want]), Topology.of([have]))
    assert isinstance(action, Differs)
    assert [str(d) for d in action.differences] == ["x-queue-type is 'classic', wanted 'quorum'"]


def test_an_adapter_may_bring_lanes_of_its_own() -> None:
    """A broker without exchanges uses the same plan for its own kind of entity."""
    lanes = Topology.of([WorkQueue("a"), WorkQueue("b")])
    assert plan(lanes, Topology.of([WorkQueue("a")])) == [Create(WorkQueue("b"))]
