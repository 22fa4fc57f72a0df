"""What a sender is told: errors in words, from receipts and from replies."""

from __future__ import annotations

import msgspec
import pytest

from taskyard.producer.handle import value_of
from taskyard.producer.verdict import Place, error_of, host_of
from taskyard.shared import Job, JobCancelled, JobError, JobFailed, JobParked, Queue, errors
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import Reply
from taskyard.shared.outcomes import ErrorInfo

PLACE = Place(host="rabbit:5672", namespace="shop")
JOB = Envelope(id="id-1", queue="chekout", task="chekout.pay")


def error(status: PublishStatus, detail: str = ""):
    return error_of(Receipt(status=status, detail=detail), JOB, PLACE, 2.5)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (PublishStatus.UNROUTABLE, errors.UnknownQueue),
        (PublishStatus.REJECTED, errors.Rejected),
        (PublishStatus.TIMEOUT, errors.PublishTimeout),
        (PublishStatus.UNAVAILABLE, errors.Unavailable),
    ],
)
def test_each_receipt_has_its_error(status: PublishStatus, kind: type[errors.PublishError]) -> None:
    """Each names the job, the namespace and the host, and keeps the broker's own words."""
    found = error(status, "its own words")
    assert found is not None
    assert type(found) is kind
    assert (found.job_id, found.queue) == ("id-1", "chekout")
    for words in ("id-1", "chekout", "'shop'", "rabbit:5672", "its own words"):
        assert words in str(found)
    assert error(PublishStatus.CONFIRMED) is None


def test_an_unknown_queue_is_explained() -> None:
    """The error names the queue, guesses what was meant and lists what is declared (ZS-15)."""
    queues = [Queue("checkout"), Queue("mail")]
    found = error(PublishStatus.UNROUTABLE)
    assert "Did you mean 'checkout'?" in str(found)
    assert all(queue.name in str(found) for queue in queues)
    assert isinstance(found, errors.Unroutable)
    assert isinstance(found, errors.ConfigurationError)


def test_a_declared_queue_is_to_be_created() -> None:
    """A queue that is declared but not there needs `broker apply`, and the error says so."""
    queue = Queue("chekout")
    assert "taskyard broker apply" in str(error(PublishStatus.UNROUTABLE))
    assert queue.name == "chekout"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("amqp://user:secret@rabbit:5672/vhost", "rabbit:5672"),
        ("amqps://u:p%40ss@a:5671,u:p@b:5671/v", "a:5671, b:5671"),
        ("amqp://u:secret@a,b:5673", "a, b:5673"),
        ("sqlite:////var/lib/broker.db", "/var/lib/broker.db"),
        ("sqlite:///.taskyard/broker.db", ".taskyard/broker.db"),
        ("memory://demo", "demo"),
    ],
)
def test_the_host_is_shown_and_the_password_is_not(url: str, host: str) -> None:
    """An error may be logged: it names the broker and never its password."""
    assert host_of(url) == host
    assert "secret" not in host_of(url)


def reply(outcome: str, **fields) -> Reply:
    return Reply(job="id-1", attempt=2, outcome=outcome, **fields)


def test_results_are_typed_by_the_handler() -> None:
    """A result is what the handler's annotation says; by name only it is plain JSON."""
    queue = Queue("verdict")

    @queue.task
    def pair() -> tuple[int, int]:
        return (1, 2)

    done = reply("succeeded", value=msgspec.Raw(b"[1,2]"))
    assert value_of(done, pair.job()) == (1, 2)
    assert value_of(done, Job[object](queue="verdict", task="pair")) == [1, 2]
    assert value_of(reply("succeeded"), pair.job()) is None


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("failed", JobFailed), ("parked", JobParked), ("cancelled", JobCancelled)],
)
def test_each_end_has_its_error(outcome: str, kind: type[JobError]) -> None:
    """An end without success raises its own error, with the worker's traceback."""
    info = ErrorInfo(type="ValueError", message="no card", traceback="Traceback: line 7")
    with pytest.raises(kind, match="no card") as caught:
        value_of(reply(outcome, detail="exhausted", error=info), Job(queue="a", task="b"))
    assert type(caught.value) is kind
    assert caught.value.kind == "exhausted"
    assert caught.value.traceback == "Traceback: line 7"
    assert "line 7" in str(caught.value)


def test_a_result_that_could_not_travel_is_no_silent_none() -> None:
    """A job that succeeded with a value without a JSON form says so."""
    with pytest.raises(JobError, match="succeeded, but its result has no JSON form"):
        value_of(
            reply("succeeded", message="its result has no JSON form: x"), Job(queue="a", task="b")
        )
