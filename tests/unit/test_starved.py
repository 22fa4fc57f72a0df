"""When a consumer is found to starve."""

from __future__ import annotations

import pytest

from taskyard.workers.starved import LONGEST_S, QUIET_S, SURE_S, Hunger, Verdict


def asked_at(hunger: Hunger, start_s: float, *, taken: int = 3, hungry: bool = True) -> float:
    """Look every second from `start_s` on; return when the broker is first asked."""
    for tick in range(1000):
        if hunger.look(start_s + tick, taken=taken, hungry=hungry):
            return start_s + tick
    raise AssertionError("it never asks")


@pytest.fixture
def hunger() -> Hunger:
    fed = Hunger()
    fed.look(100.0, taken=3, hungry=True)
    return fed


def test_a_quiet_consumer_is_asked_about(hunger):
    """Ten seconds without a delivery; ready jobs are a suspicion, and five seconds later a verdict."""
    first_s = asked_at(hunger, 101.0)
    assert first_s == 100.0 + QUIET_S
    assert hunger.judge(first_s, taken=3, ready=7) is Verdict.SUSPECT
    second_s = asked_at(hunger, first_s + 1)
    assert second_s == first_s + SURE_S
    assert hunger.judge(second_s, taken=3, ready=7) is Verdict.STARVED
    assert hunger.since_s == first_s
    third_s = asked_at(hunger, second_s + 1)
    assert hunger.judge(third_s, taken=3, ready=1) is Verdict.STARVED  # its successor starves too
    assert hunger.since_s == first_s


@pytest.mark.parametrize("how", ["taken", "empty"])
def test_a_suspicion_ends_with_a_delivery_or_an_empty_queue(hunger, how):
    """Others took what was ready, or it came: no verdict, and the count begins anew."""
    first_s = asked_at(hunger, 101.0)
    hunger.judge(first_s, taken=3, ready=7)
    answer = {"taken": 4, "ready": 7} if how == "taken" else {"taken": 3, "ready": 0}
    assert hunger.judge(first_s + SURE_S, **answer) is Verdict.FED
    assert hunger.since_s is None


def test_it_asks_less_and_less_while_nothing_is_ready(hunger):
    """An idle fleet must not burden its broker."""
    now_s, pauses = 100.0, []
    for _ in range(5):
        then_s = asked_at(hunger, now_s + 1)
        pauses.append(then_s - now_s)
        hunger.judge(then_s, taken=3, ready=0)
        now_s = then_s
    assert pauses == [10.0, 20.0, 40.0, LONGEST_S, LONGEST_S]
    hunger.look(now_s + 1, taken=4, hungry=True)
    assert asked_at(hunger, now_s + 2, taken=4) == now_s + 1 + QUIET_S


def test_who_has_no_free_slot_is_never_asked_about(hunger):
    """Not before it has been hungry for long."""
    for tick in range(100):
        assert not hunger.look(101.0 + tick, taken=3, hungry=False)
    assert asked_at(hunger, 201.0) == 200.0 + QUIET_S


def test_an_answer_that_never_comes_is_asked_for_again(hunger):
    """The broker was away for a moment."""
    first_s = asked_at(hunger, 101.0)
    assert asked_at(hunger, first_s + 1) == first_s + QUIET_S
