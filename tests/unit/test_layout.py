"""The AMQP layout as data: names, queue types, and the rules that keep jobs from being lost."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.layout import (
    WORK_DELIVERY_LIMIT,
    BrokerFacts,
    NeedsChoice,
    existing_types,
    has_feed,
    layout,
    resolve_feed,
    resolve_type,
)
from taskyard.shared.adapters.amqp.names import MAX_NAME_BYTES, Names
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import Binding, Exchange, QueueObject, Topology

NAMES = Names()
QUEUE_NAME = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
OLD, NEW = BrokerFacts(version=(3, 10, 8)), BrokerFacts(version=(4, 3, 6))
OLD_CLUSTER = BrokerFacts(version=(3, 13, 7), cluster_size=3)
FULL = layout(NAMES, [("default", "quorum"), ("mail", "classic")], feed="classic")


def queue(topology: Topology, name: str) -> dict[str, object]:
    found = topology.by_key()[("queue", name)]
    assert isinstance(found, QueueObject)
    return dict(found.arguments)


def exchange(topology: Topology, name: str) -> Exchange:
    found = topology.by_key()[("exchange", name)]
    assert isinstance(found, Exchange)
    return found


def bindings(topology: Topology) -> list[Binding]:
    return [entity for entity in topology if isinstance(entity, Binding)]


@pytest.mark.parametrize(
    ("requested", "facts", "existing", "expected"),
    [
        ("auto", NEW, None, "quorum"),
        ("auto", BrokerFacts(version=(4, 3), cluster_size=3), None, "quorum"),
        ("auto", OLD, None, "classic"),
        ("auto", BrokerFacts(version=(4, 2, 9)), None, "classic"),
        ("auto", NEW, "classic", "classic"),
        ("auto", OLD_CLUSTER, "quorum", "quorum"),
        ("quorum", OLD, "classic", "quorum"),
        ("classic", NEW, "quorum", "classic"),
    ],
)
def test_a_queues_type_is_resolved_once_and_sticks(requested, facts, existing, expected) -> None:
    """`auto` takes what exists, else what the version does best; a request is taken as it is."""
    assert resolve_type(requested, facts, existing) == expected


def test_an_older_cluster_asks_instead_of_choosing() -> None:
    """Before 4.3 a cluster offers replicas or priorities; the answer names both."""
    answer = resolve_type("auto", OLD_CLUSTER)
    assert isinstance(answer, NeedsChoice)
    assert "3.13.7" in answer.reason
    assert "NAME:quorum" in answer.reason
    assert "NAME:classic" in answer.reason


def test_an_unknown_type_is_refused_in_words() -> None:
    """Any other type is an answer, not an exception: the caller knows the queue's name."""
    assert isinstance(resolve_type("lazy", NEW), NeedsChoice)


def test_what_exists_is_recognised() -> None:
    """Types of work queues and the feed are read back from what was observed."""
    assert existing_types(NAMES, FULL) == {"default": "quorum", "mail": "classic"}
    assert has_feed(NAMES, FULL)
    assert not has_feed(NAMES, layout(NAMES, [], feed=None))


def test_the_feed_is_quorum_unless_it_exists_otherwise() -> None:
    """A classic feed that is there is not changed behind anyone's back."""
    assert resolve_feed(NAMES, Topology()) == "quorum"
    assert resolve_feed(NAMES, FULL) == "classic"


def test_every_queue_is_durable_and_names_its_type() -> None:
    """A virtual host's default queue type changes nothing; what 4.3 refuses appears nowhere."""
    for entity in FULL:
        if isinstance(entity, QueueObject):
            declared = dict(entity.arguments)
            assert entity.durable
            assert declared["x-queue-type"] in {"classic", "quorum", "stream"}
            assert not declared.keys() & {"x-queue-mode", "x-queue-version"}
            if declared["x-queue-type"] != "classic":
                assert "x-max-priority" not in declared


def test_no_dead_letter_can_get_stuck() -> None:
    """Each dead-letter target exists, routes everything, and has no length limit on the way."""
    for entity in FULL:
        if isinstance(entity, QueueObject):
            declared = dict(entity.arguments)
            if "x-dead-letter-exchange" not in declared:
                continue
            assert declared["x-dead-letter-strategy"] == "at-least-once"
            assert declared["x-overflow"] == "reject-publish"
            target = exchange(FULL, str(declared["x-dead-letter-exchange"]))
            assert ("alternate-exchange", NAMES.orphaned) in target.arguments
    limited = {
        entity.name
        for entity in FULL
        if isinstance(entity, QueueObject)
        and dict(entity.arguments).keys() & {"x-max-length", "x-max-length-bytes"}
    }
    assert limited == {NAMES.known, NAMES.ledger, NAMES.control}


def test_work_queues_keep_priorities_and_park_what_kills_workers() -> None:
    """Classic has its ten levels; quorum has a limit far above what our own counting allows."""
    assert queue(FULL, NAMES.work_queue("mail"))["x-max-priority"] == 9
    quorum = queue(FULL, NAMES.work_queue("default"))
    assert quorum["x-delivery-limit"] == WORK_DELIVERY_LIMIT == 50
    assert quorum["x-dead-letter-exchange"] == NAMES.parked
    assert quorum["x-dead-letter-routing-key"] == "default"


@pytest.mark.parametrize("lot", [NAMES.parked_queue("default"), NAMES.orphaned, NAMES.ledger])
def test_lots_and_feed_cannot_reach_their_delivery_limit(lot: str) -> None:
    """What is read and returned again and again; neither a TTL nor a limit may end it."""
    declared = queue(layout(NAMES, [("default", "quorum")], feed="quorum"), lot)
    assert declared["x-queue-type"] == "quorum"
    assert int(str(declared["x-delivery-limit"])) > 10**9
    assert "x-message-ttl" not in declared


def test_every_key_of_a_queue_reaches_queue_lot_probe_and_feed() -> None:
    """One queue's bindings; those that only record or prove are witnesses."""
    found = {
        (b.source, b.destination, b.witness) for b in bindings(FULL) if b.routing_key == "default"
    }
    assert found == {
        (NAMES.tasks, NAMES.work_queue("default"), False),
        (NAMES.tasks, NAMES.ledger, True),
        (NAMES.parked, NAMES.parked_queue("default"), False),
        (NAMES.known, NAMES.known, True),
    }


def test_without_a_ledger_nothing_leads_to_the_feed() -> None:
    """Recording is off, and discovered to be: the feed and its bindings are not there."""
    plain = layout(NAMES, [("default", "quorum")], feed=None)
    gone = {entity.key for entity in FULL} - {entity.key for entity in plain}
    assert ("queue", NAMES.ledger) in gone
    assert all(NAMES.ledger not in entity.key for entity in plain)


def test_no_binding_dangles() -> None:
    """Both ends of each binding are in the layout."""
    keys = FULL.by_key().keys()
    for binding in bindings(FULL):
        assert set(binding.ends()) <= set(keys)


def test_the_ladders_size() -> None:
    """One queue per level and digit (docs/decisions/0001-delay-ladder.md)."""
    held = [e for e in FULL if isinstance(e, QueueObject) and "x-message-ttl" in dict(e.arguments)]
    assert len(held) == ladder.LEVELS * (ladder.RADIX - 1)


@given(first=QUEUE_NAME, second=QUEUE_NAME)
def test_names_of_queues_cannot_collide(first: str, second: str) -> None:
    """Two queues never share an object, and none has the name of a fixed one."""
    fixed = {entity.key[1] for entity in layout(NAMES, [], feed="quorum")}
    mine = {NAMES.work_queue(first), NAMES.parked_queue(first)}
    assert not mine & fixed
    assert (first == second) == bool(mine & {NAMES.work_queue(second), NAMES.parked_queue(second)})
    assert NAMES.queue_of(NAMES.work_queue(first)) == first
    assert NAMES.queue_of(NAMES.parked_queue(first)) is None


def test_a_name_that_rabbitmq_would_refuse_is_refused_here() -> None:
    """255 bytes, whatever the characters."""
    with pytest.raises(ConfigurationError, match="255"):
        NAMES.lock("ü" * (MAX_NAME_BYTES // 2))


def test_two_namespaces_share_nothing() -> None:
    """Even where one prefix starts like the other."""
    one = {e.key for e in layout(Names("shop"), [("a", "quorum")], feed="quorum")}
    other = {e.key for e in layout(Names("shop-q"), [("a", "quorum")], feed="quorum")}
    assert not one & other
