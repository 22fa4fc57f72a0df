"""From how a handler ended to its attempt's outcome; what the caller is then told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from taskyard.shared import Fail, Hold, InvalidArguments, Queue, Retry, RetryPolicy
from taskyard.shared.decide import (
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    describe,
    outcome_of_error,
    policy_of,
    ttr_s_of,
)
from taskyard.shared.envelope import Envelope
from taskyard.shared.invoke import RESULT_LIMIT_BYTES, encode_result, reply_of
from taskyard.shared.outcomes import (
    Cancelled,
    Failed,
    HandedBack,
    Parked,
    Retried,
    Succeeded,
)
from taskyard.shared.retry import encode_policy
from taskyard.shared.states import FailureKind, ParkReason

NOW_MS = 1_000_000


class Half:
    def random(self) -> float:
        return 0.5


def outcome(error: BaseException, policy: RetryPolicy | None = None, **fields):
    envelope = Envelope(id="1", queue="q", task="q.t", **fields)
    policy = policy or RetryPolicy(attempts=3, first=10, factor=2, jitter="none")
    return outcome_of_error(error, envelope, policy, now_ms=NOW_MS, rng=Half())


def test_verdicts_end_the_job_as_they_say() -> None:
    """Hold parks at once, Fail is final, whatever the policy would allow."""
    assert outcome(Hold("no stock")) == Parked(reason=ParkReason.HELD, detail="no stock")
    assert outcome(Fail("declined")) == Failed(kind=FailureKind.LOGICAL, message="declined")


class Mute(Exception):
    """An exception without a text of its own."""

    def __init__(self, raises: type[BaseException]) -> None:
        self.raises = raises

    def __str__(self) -> str:
        raise self.raises


class MuteHold(Mute, Hold):
    """The same, as a verdict."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no UTF-8: \udcff"),
        Hold("no UTF-8: \udcff"),
        Fail("no UTF-8: \udcff"),
        ValueError("\0" * 100_000),
        Hold("😀" * 100_000),
        Fail("😀" * 100_000),
        type("N" * 500_000, (ValueError,), {})("x"),
        Mute(ValueError),
        Mute(KeyboardInterrupt),
        MuteHold(SystemExit),
    ],
)
def test_any_error_becomes_an_outcome_that_can_travel(error: BaseException) -> None:
    """Whatever an exception's text is, its outcome encodes, within what a header can hold."""
    for attempt in (1, 3):
        ended = outcome(error, attempt=attempt)
        assert len(msgspec.json.encode(ended)) < 100_000


@pytest.mark.parametrize("delay", [1e30, float("nan"), float("inf"), -1, 10**400, object(), "soon"])
def test_an_impossible_delay_falls_back_to_the_policy(delay: float) -> None:
    """A `Retry` that no broker could carry is retried as the policy says."""
    ended = outcome(Retry(delay=delay))
    assert isinstance(ended, Retried)
    assert ended.delay_ms == 10_000


@pytest.mark.parametrize("priority", [99, "²", "9" * 5000, object()])
def test_an_impossible_priority_is_left_out(priority: int) -> None:
    """A `Retry` with a priority that is none keeps the job's own."""
    ended = outcome(Retry(priority=priority))
    assert isinstance(ended, Retried)
    assert ended.priority is None


def test_a_result_whose_conversion_fails_is_left_out() -> None:
    """A value that raises while it becomes JSON does not undo the work that made it."""

    class Model:
        def model_dump(self, mode: str) -> object:
            raise RuntimeError(mode)

    value, problem = encode_result(Model())
    assert value is None
    assert "no JSON form" in problem


def test_errors_are_retried_and_then_parked() -> None:
    """Any other exception follows the policy, and parks with its traceback when it is spent."""
    gaps = [outcome(ValueError("x"), attempt=n) for n in (1, 2)]
    assert [gap.delay_ms for gap in gaps if isinstance(gap, Retried)] == [10_000, 20_000]
    last = outcome(ValueError("no luck"), attempt=3)
    assert isinstance(last, Parked)
    assert last.reason is ParkReason.EXHAUSTED
    assert "3 attempts failed" in last.detail
    assert "no luck" in last.detail
    assert last.error is not None


@given(st.integers(1, 50), st.integers(0, 49), st.integers(1, 20))
def test_a_release_starts_the_budget_anew(attempt: int, base: int, attempts: int) -> None:
    """After a release exactly the policy's attempts are allowed again; numbers go on."""
    base = min(base, attempt - 1)
    found = outcome(ValueError(), RetryPolicy(attempts=attempts), attempt=attempt, base=base)
    assert isinstance(found, Retried) == (attempt - base < attempts)


def test_a_retry_may_say_when_and_how() -> None:
    """`Retry` counts as an attempt and may set its delay and priority."""
    assert outcome(Retry()) == outcome(Retry())
    found = outcome(Retry("later", delay="2m", priority="low"))
    assert isinstance(found, Retried)
    assert (found.delay_ms, found.priority) == (120_000, 1)
    assert isinstance(outcome(Retry(delay=1), attempt=3), Parked)
    wrong = outcome(Retry(delay="soon"))
    assert isinstance(wrong, Retried)
    assert wrong.delay_ms == 10_000, "a mistake in the delay falls back to the policy"
    assert wrong.error is not None
    assert "soon" in wrong.error.message


def test_a_retry_past_the_expiry_parks_at_once() -> None:
    """A due time past the expiry parks the job instead of waiting for it."""
    found = outcome(ValueError(), expires_ms=NOW_MS + 10_000)
    assert isinstance(found, Parked)
    assert found.reason is ParkReason.EXPIRED
    assert isinstance(outcome(ValueError(), expires_ms=NOW_MS + 10_001), Retried)


def test_wrong_arguments_park() -> None:
    """Arguments that do not fit never will; those of a job sent from inside are an error."""
    found = outcome(InvalidArguments("q.t", "missing"))
    assert isinstance(found, Parked)
    assert found.reason is ParkReason.INVALID
    assert isinstance(outcome(InvalidArguments("other.t", "missing")), Retried)


def test_whose_policy_counts() -> None:
    """The job's own, else its task's, else its queue's, else the default; likewise its TTR."""
    policies = [RetryPolicy(attempts=n) for n in (11, 12, 13)]
    queue = Queue("decide", retry=policies[2], ttr=50)
    task = queue.add(lambda: None, name="a", retry=policies[1], ttr=40)
    plain = queue.add(lambda: None, name="b")
    bare = Queue("decide").add(lambda: None, name="a")
    own = Envelope(id="1", queue="q", task="q.t", retry=encode_policy(policies[0]), ttr_ms=30_000)
    none = Envelope(id="1", queue="q", task="q.t")
    broken = Envelope(id="1", queue="q", task="q.t", retry="nonsense", ttr_ms=0)
    assert [policy_of(e, t).attempts for e, t in ((own, task), (none, task), (none, plain))] == [
        11,
        12,
        13,
    ]
    assert policy_of(broken, task).attempts == 12
    assert policy_of(none, bare) == RetryPolicy()
    assert [
        ttr_s_of(e, t) for e, t in ((own, task), (none, task), (broken, plain), (none, bare))
    ] == [30, 40, 50, 60]


def test_errors_are_described() -> None:
    """Type, text, traceback and a fingerprint that is equal for one cause."""

    def failing(n: int) -> None:
        raise LookupError(f"no order {n}")

    found = []
    for n in (1, 2):
        try:
            failing(n)
        except LookupError as error:
            found.append(describe(error))
    assert found[0].type == "LookupError"
    assert found[0].message == "no order 1"
    assert "in failing" in found[0].traceback
    assert found[0].fingerprint == found[1].fingerprint == "LookupError at test_decide.py:failing"


def test_descriptions_are_bounded() -> None:
    """Huge errors are cut, at the front of the traceback, where it says least."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    found = describe(ValueError("x" * 100_000 + "END"))
    assert len(found.message) <= MESSAGE_LIMIT
    assert len(found.traceback) <= TRACEBACK_LIMIT + 20
    assert found.traceback.endswith("END\n")
    assert "RuntimeError" in describe(Unprintable()).message


def test_what_the_caller_is_told() -> None:
    """Whoever asked for the result hears of each end, and of nothing while the job goes on."""
    envelope = Envelope(id="1", queue="q", task="q.t", attempt=2)

    def told(outcome) -> tuple[str, str, str] | None:
        reply = reply_of(envelope, outcome)
        return None if reply is None else (reply.outcome, reply.detail, reply.message)

    assert told(Retried(delay_ms=1)) is None
    assert told(HandedBack()) is None
    assert told(Succeeded()) == ("succeeded", "", "")
    assert told(Failed(kind=FailureKind.LOGICAL, message="m")) == ("failed", "logical", "m")
    assert told(Parked(reason=ParkReason.HELD, detail="d")) == ("parked", "held", "d")
    assert told(Cancelled(by="ops", aborted=True)) == ("cancelled", "aborted", "ops")


def test_results_travel_or_say_why_not() -> None:
    """A value without a JSON form, or far too large, never makes a finished job run again."""
    assert encode_result(None) == (None, "")
    raw, problem = encode_result({"a": [1]})
    assert raw is not None
    assert (bytes(raw), problem) == (b'{"a":[1]}', "")
    assert "no JSON form" in encode_result(object())[1]
    endless: list[object] = []
    endless.append(endless)
    assert "no JSON form" in encode_result(endless)[1]
    assert "exceeds" in encode_result("x" * RESULT_LIMIT_BYTES)[1]
    for value in (object(), "x" * RESULT_LIMIT_BYTES):
        assert encode_result(value)[0] is None


@pytest.mark.parametrize("error", [KeyError("x"), OSError(2, "no file"), Exception()])
def test_builtin_errors_have_short_names(error: Exception) -> None:
    """Builtins are named without their module."""
    assert describe(error).type == type(error).__name__
