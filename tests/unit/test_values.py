"""The small values: priorities, durations, names, retry policies and states."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.naming import (
    check_namespace,
    check_queue_name,
    check_task_name,
    full_task_name,
)
from taskyard.shared.priority import (
    clamp_priority,
    from_beanstalk,
    from_gearman,
    from_zend,
    parse_priority,
)
from taskyard.shared.retry import RetryPolicy, decode_policy, encode_policy
from taskyard.shared.states import (
    DISCARD_KIND,
    FINAL,
    TRANSITIONS,
    IllegalTransition,
    ParkReason,
    State,
    advance,
)

# ---------------------------------------------------------------- priorities


def test_names_stand_for_numbers() -> None:
    """Low 1, normal 4, high 7, urgent 9; nothing means normal; higher is first (ZS-08)."""
    assert [parse_priority(n) for n in ("low", "normal", "high", "urgent", None)] == [1, 4, 7, 9, 4]
    assert [parse_priority(n) for n in range(10)] == list(range(10))
    assert parse_priority("7") == 7


@given(st.integers() | st.text() | st.booleans())
def test_a_priority_is_valid_or_refused(value) -> None:
    """Whatever is given, it is 0 to 9 or refused, never quietly changed."""
    with suppress(ConfigurationError):
        assert 0 <= parse_priority(value) <= 9


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_beanstalk_priorities_keep_their_order(one: int, other: int) -> None:
    """Smaller is more urgent there: the order is never reversed, the whole range is covered."""
    assert 0 <= from_beanstalk(one) <= 9
    if one <= other:
        assert from_beanstalk(one) >= from_beanstalk(other)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_gearman_priorities_keep_their_order(one: int, other: int) -> None:
    """Thirds of 1024; above that is lowest, never dropped (GM-01)."""
    if one <= other:
        assert from_gearman(one) >= from_gearman(other)


def test_gearman_thirds() -> None:
    """The replaced system's borders; nothing means normal, 5000 is accepted as lowest (GM-01)."""
    assert [from_gearman(n) for n in (0, 341, 342, 682, 683, 1024)] == [7, 7, 4, 4, 1, 1]
    assert from_gearman(None) == 4
    assert from_gearman(5000) == 0
    with pytest.raises(ConfigurationError, match="negative"):
        from_gearman(-1)


def test_beanstalk_anchors() -> None:
    """Most urgent, usual, least."""
    assert [from_beanstalk(n) for n in (0, 1, 1023, 1024, 1025, 2**32 - 1)] == [9, 8, 5, 4, 3, 0]
    assert from_beanstalk(None) == 4
    with pytest.raises(ConfigurationError):
        from_beanstalk(2**32)


def test_zend_names() -> None:
    """LOW 0, NORMAL 1, HIGH 2, URGENT 3 (ZS-08)."""
    assert [from_zend(n) for n in (0, 1, 2, 3, None)] == [1, 4, 7, 9, 4]
    with pytest.raises(ConfigurationError):
        from_zend(4)


@given(st.integers() | st.none())
def test_foreign_priorities_are_clamped(value: int | None) -> None:
    """A foreign message's priority is brought into range."""
    assert 0 <= clamp_priority(value) <= 9


# ---------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90), (1.5, 1.5), ("90", 90), ("90s", 90), ("250ms", 0.25), ("5m", 300), ("4h", 14400),
        ("30d", 2592000), ("2w", 1209600), (" 1.5 h ", 5400), (timedelta(minutes=1), 60), (0, 0),
    ],
)  # fmt: skip
def test_durations(text, seconds: float) -> None:
    """Numbers are seconds; text may carry a unit."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", -1, "1y", "1h30m", float("nan"), float("inf")])
def test_what_is_no_duration_is_refused(text) -> None:
    """The error shows what was given."""
    with pytest.raises(ConfigurationError, match="duration"):
        parse_duration(text)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_525)))
def test_timedeltas_are_kept(delta: timedelta) -> None:
    """A timedelta is worth its seconds."""
    assert parse_duration(delta) == delta.total_seconds()


# ---------------------------------------------------------------- names


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True))
def test_good_queue_names_pass(name: str) -> None:
    """Every name of the rule is accepted unchanged."""
    assert check_queue_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a b", "a" * 65, "ä", "a\n"])
def test_bad_queue_names_are_refused(name: str) -> None:
    """Dots would collide with routing keys, and the rest with operators' shells."""
    with pytest.raises(ConfigurationError, match="queue name"):
        check_queue_name(name)


def test_namespaces_and_tasks() -> None:
    """A namespace's error names its variable; task names may carry dots and colons."""
    with pytest.raises(ConfigurationError, match="TASKYARD_NAMESPACE"):
        check_namespace("My.Space")
    assert check_task_name("export:orders.v2") == "export:orders.v2"


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True),
    st.from_regex(r"[a-z_][a-z0-9_.]{0,9}", fullmatch=True),
)
def test_full_names_are_stable(queue: str, task: str) -> None:
    """The full name of a full name is itself."""
    full = full_task_name(queue, task)
    assert full.startswith(f"{queue}.")
    assert full_task_name(queue, full) == full


# ---------------------------------------------------------------- retry


_policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 1000),
    first=st.floats(0, 1e6),
    factor=st.floats(1, 100),
    cap=st.floats(0, 1e6),
    jitter=st.just("none"),
)


class Fixed:
    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


@given(_policies, st.integers(1, 10_000))
def test_gaps_grow_and_are_bounded(policy: RetryPolicy, failed: int) -> None:
    """Each gap is at least the one before, and at most the cap, for any number of failures."""
    rng = Fixed(0.0)
    assert policy.gap_ms(failed, rng) <= policy.gap_ms(failed + 1, rng) <= round(policy.cap * 1000)


@given(_policies, st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_full_jitter_stays_below_the_exact_gap(
    policy: RetryPolicy, failed: int, drawn: float
) -> None:
    """Full jitter draws between nothing and the exact gap."""
    exact = policy.gap_ms(failed, Fixed(0.0))
    jittered = RetryPolicy(
        attempts=policy.attempts, first=policy.first, factor=policy.factor, cap=policy.cap
    )
    assert 0 <= jittered.gap_ms(failed, Fixed(drawn)) <= exact + 1


@given(_policies)
def test_a_policy_travels(policy: RetryPolicy) -> None:
    """A job's own policy survives the wire."""
    assert decode_policy(encode_policy(policy)) == policy


@given(st.integers(1, 100), st.integers(0, 200))
def test_attempts_are_counted_in_all(attempts: int, failed: int) -> None:
    """`attempts` includes the first: exactly so many failures are allowed."""
    assert RetryPolicy(attempts=attempts).allows(failed) == (failed < attempts)


@pytest.mark.parametrize(
    ("field", "value"),
    [("attempts", 0), ("first", -1), ("cap", -1), ("factor", 0.5), ("jitter", "some")],
)
def test_senseless_policies_are_refused(field: str, value) -> None:
    """The error names the field."""
    with pytest.raises(ConfigurationError, match=field):
        RetryPolicy(**{field: value})


def test_no_text_breaks_the_policy_reader() -> None:
    """A foreign header is a policy or refused."""
    for text in ("", "{", "[]", '{"attempts":"x"}', '{"attempts":0}'):
        with pytest.raises(ConfigurationError):
            decode_policy(text)


def test_the_default_policy() -> None:
    """Three attempts; 5 s, 10 s; capped at ten minutes; full jitter."""
    policy = RetryPolicy()
    almost_one = Fixed(1 - 2**-53)
    assert [policy.gap_ms(n, almost_one) for n in (1, 2, 8)] == [5000, 10_000, 600_000]
    assert policy.gap_ms(1, random.Random(1)) != policy.gap_ms(1, random.Random(2))


# ---------------------------------------------------------------- states


@given(st.sampled_from(State), st.lists(st.sampled_from(State), max_size=20))
def test_no_illegal_path(state: State, wishes: list[State]) -> None:
    """However a job is pushed about, each step is in the table or refused."""
    for wish in wishes:
        if wish in TRANSITIONS[state]:
            state = advance(state, wish)
            assert state is wish
        else:
            with pytest.raises(IllegalTransition, match=state.value):
                advance(state, wish)


def test_every_state_has_its_row() -> None:
    """The table knows every state; each is reachable and none but the last are dead ends."""
    assert set(TRANSITIONS) == set(State)
    reachable = set().union(*TRANSITIONS.values())
    assert reachable == set(State) - {State.PENDING_PUBLISH}
    assert all(TRANSITIONS[state] for state in State)


def test_a_final_job_starts_only_anew() -> None:
    """What is over goes on only by being queued again, never straight into running."""
    for state in FINAL:
        assert TRANSITIONS[state] <= {State.QUEUED, State.WAITING, State.SCHEDULED}


def test_every_park_reason_has_a_kind_when_discarded() -> None:
    """A discarded job fails with its cause's kind, whatever the cause."""
    assert set(DISCARD_KIND) == set(ParkReason)
