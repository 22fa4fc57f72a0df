"""The delay ladder, walked through a pure simulation of the layout's own exchanges and queues."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from taskyard.shared.adapters.amqp import ladder
from taskyard.shared.adapters.amqp.layout import layout
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.topology import Binding, Exchange, QueueObject, Topology

NAMES = Names("tq")
# Names that suffix or digit patterns would confuse, if there were any.
QUEUES = ("a", "b-a", "ab", "0", "1", "7", "0-0", "checkout", "checkout-0")
QUEUE_NAMES = st.sampled_from(QUEUES)
TICKS = st.one_of(
    st.integers(1, ladder.MAX_TICKS),
    st.integers(1, 300),
    st.builds(
        lambda level, digit: digit * ladder.RADIX**level, st.integers(0, 9), st.integers(1, 7)
    ),
)


def matches(pattern: str, key: str) -> bool:
    """AMQP's topic rule: words between dots, `*` one word, `#` any number of them."""
    return _match(pattern.split("."), key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_match(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _match(pattern[1:], words[1:])


class SimulatedBroker:
    """Routes by a topology: exchanges, their bindings and alternates, and queues with a TTL."""

    def __init__(self, topology: Topology) -> None:
        self.exchanges = {e.name: e for e in topology if isinstance(e, Exchange)}
        self.queues = {e.name: dict(e.arguments) for e in topology if isinstance(e, QueueObject)}
        self.bindings: dict[str, list[Binding]] = {name: [] for name in self.exchanges}
        for entity in topology:
            if isinstance(entity, Binding):
                self.bindings[entity.source].append(entity)

    def route(self, exchange: str, key: str) -> list[str]:
        """The queues that one publish reaches."""
        found: list[str] = []
        for binding in self.bindings[exchange]:
            if self._takes(self.exchanges[exchange].kind, binding, key):
                if binding.destination_kind == "queue":
                    found.append(binding.destination)
                else:
                    found += self.route(binding.destination, key)
        alternate = dict(self.exchanges[exchange].arguments).get("alternate-exchange")
        if not found and alternate:
            return self.route(str(alternate), key)
        return found

    @staticmethod
    def _takes(kind: str, binding: Binding, key: str) -> bool:
        if kind == "topic":
            return matches(binding.routing_key, key)
        return kind == "fanout" or binding.routing_key == key

    def travel(self, exchange: str, key: str) -> tuple[list[str], int]:
        """Follow a job until no TTL moves it: the queues it passed, and the time it took (ms)."""
        path, waited = [], 0
        (queue,) = self.route(exchange, key)
        while (hold := self.queues[queue].get("x-message-ttl")) is not None:
            path.append(queue)
            waited += int(hold)
            (queue,) = self.route(str(self.queues[queue]["x-dead-letter-exchange"]), key)
        return [*path, queue], waited


BROKER = SimulatedBroker(layout(NAMES, [(q, "quorum") for q in QUEUES], feed=None))
RECORDED = SimulatedBroker(layout(NAMES, [(q, "quorum") for q in QUEUES], feed="classic"))


@given(ticks=TICKS, queue=QUEUE_NAMES)
@example(ticks=ladder.MAX_TICKS, queue="0")
@example(ticks=1, queue="1")
def test_a_job_waits_its_ticks_and_arrives_only_at_its_queue(ticks: int, queue: str) -> None:
    """Every key leads through exactly its delay to exactly its queue, highest digit first."""
    path, waited = BROKER.travel(ladder.entry(NAMES, ticks), ladder.routing_key(ticks, queue))

    assert path[-1] == NAMES.work_queue(queue)
    assert waited == ticks * ladder.UNIT_MS
    assert path[:-1] == [NAMES.delay_hold(level, digit) for level, digit in ladder.hops(ticks)]


@given(ticks=TICKS)
def test_a_job_for_a_queue_that_is_gone_ends_orphaned(ticks: int) -> None:
    """The last hop's alternate exchange takes what no queue takes (nothing is dropped)."""
    path, waited = BROKER.travel(ladder.entry(NAMES, ticks), ladder.routing_key(ticks, "gone"))
    assert (path[-1], waited) == (NAMES.orphaned, ticks * ladder.UNIT_MS)


@given(ticks=TICKS, queue=QUEUE_NAMES)
def test_the_feed_gets_one_copy_where_a_job_enters(ticks: int, queue: str) -> None:
    """An entry is recorded once; neither its hops nor its delivery are."""
    first = NAMES.delay_hold(*ladder.hops(ticks)[0])
    key = ladder.routing_key(ticks, queue)

    assert sorted(RECORDED.route(ladder.entry(NAMES, ticks), key)) == sorted([first, NAMES.ledger])
    for exchange in (*map(NAMES.delay_level, range(ladder.LEVELS)), NAMES.delay_deliver):
        assert NAMES.ledger not in RECORDED.route(exchange, key)


@pytest.mark.parametrize(
    "key", ["left", "", "0.0.left", "0.0.0.0.0.0.0.0.3.9.a", "0.0.0.0.0.0.0.0.0.3.1.a"]
)
def test_a_key_that_spells_no_delay_ends_orphaned(key: str) -> None:
    """A foreign publish with a wrong key must not stay in the ladder and stop it for others."""
    path, _ = BROKER.travel(NAMES.delay_hold(1, 3), key)
    assert path == [NAMES.delay_hold(1, 3), NAMES.orphaned]


@given(delay_ms=st.integers(-1000, 2 * ladder.MAX_LADDER_MS))
def test_ticks_are_never_early_and_at_most_one_tick_late(delay_ms: int) -> None:
    """Rounded up; a delay longer than the ladder takes its whole length first."""
    held = ladder.ticks(delay_ms) * ladder.UNIT_MS
    if delay_ms <= 0:
        assert held == ladder.UNIT_MS
    elif delay_ms <= ladder.MAX_LADDER_MS:
        assert delay_ms <= held < delay_ms + ladder.UNIT_MS
    else:
        assert held == ladder.MAX_LADDER_MS


@given(ticks=TICKS)
def test_digits_add_up(ticks: int) -> None:
    """The hops are the number's digits: never more than there are levels."""
    assert sum(digit * ladder.RADIX**level for level, digit in ladder.hops(ticks)) == ticks
    assert len(ladder.hops(ticks)) <= ladder.LEVELS


def test_the_longest_passage_takes_thirty_days_and_more() -> None:
    """A 30-day delay is one passage, and the longest hold is within RabbitMQ's ten years."""
    assert ladder.MAX_LADDER_MS > 365 * 86_400_000
    longest_ms = ladder.hold_ms(ladder.LEVELS - 1, ladder.RADIX - 1)
    assert longest_ms <= 315_360_000_000


@pytest.mark.parametrize("queue", ["q" * 64, "a"])
def test_a_routing_key_fits_amqps_short_string(queue: str) -> None:
    """At most 255 bytes, at the longest queue name."""
    assert len(ladder.routing_key(ladder.MAX_TICKS, queue)) <= 255
