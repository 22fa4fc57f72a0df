"""What is recorded of jobs under a policy: rules, as values."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from support.lives import Life, lives
from taskyard.broker_setup.recording import Change, changes, left_out
from taskyard.ledger.changing import End, Refuse, cancelled, end_of, step_of
from taskyard.ledger.history import fold, peek, unpack
from taskyard.ledger.reading import envelope_of
from taskyard.ledger.recording import NotRecorded, arguments_of, recorded, without_arguments
from taskyard.shared import ConfigurationError, Queue
from taskyard.shared.broker import QueueSpec, SetupSpec
from taskyard.shared.changes import Asked, Change as JobChange
from taskyard.shared.control import ControlRecord, decode_records, encode_records
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, RELEASED, FeedItem, FeedRecord, decode_feed, encode_feed
from taskyard.shared.intents import Intents
from taskyard.shared.outcomes import Succeeded
from taskyard.shared.recording import (
    EVERYTHING,
    Policy,
    policies_of,
    policy_of,
    policy_record,
    tells,
)
from taskyard.shared.sealing import shown
from taskyard.workers.telling import Telling

FAILURES = Policy("failures")
BAD = frozenset({"failed", "parked", "retried", "cancelled"})
jobs = st.sampled_from(["all", "failures", "none"])
arguments = st.sampled_from(["full", "redacted", "none"])
policies = st.builds(Policy, jobs, arguments)


def envelope(body: bytes = b'{"card":"4111","n":7}', **more) -> Envelope:
    return Envelope(id="one", queue="q", task="q.t", body=body, **more)


def as_fed(life: Life, *, bound: bool) -> list[FeedItem]:
    """Return what the feed holds of a life whose worker records failures; `bound`: its jobs too."""
    found: list[FeedItem] = []
    last = envelope()
    for item in life.items:
        if item.envelope is not None:
            last = item.envelope
            found += [item] if bound else []
        for record in item.records:
            carries = record.outcome in BAD
            told = msgspec.structs.replace(record, request=last if carries else None)
            found += (
                [FeedItem(records=(told,))] if tells("failures", record, record.outcome) else []
            )
    return found


@given(lives(), st.booleans())
def test_of_failures_only_no_job_looks_unfinished_for_ever(life, bound):
    """Issue 6, 3: a job that is over is over in the ledger, or not in it; one that failed is in it,
    with its arguments. Whether its queue is bound to the feed makes no difference.
    """
    items, _ = recorded(as_fed(life, bound=bound), lambda _: FAILURES)
    found = fold(items).jobs
    outcomes = {record.outcome for item in life.items for record in item.records}
    assert bool(found) == bool(outcomes & BAD)
    if found and life.state not in {"queued", "running"}:
        assert found[0].standing.state == life.state
    if found:
        assert found[0].request is not None
        assert peek(found[0].request.envelope).body == b'{"n":1}'


def test_an_edited_job_is_told_of_to_its_end():
    """It keeps its attempt, and the ledger knows it from when it was parked."""
    life = Life("one")
    for what in ("parked", "edited", "succeeded"):
        assert life.go_on(what, told=True)
    items, _ = recorded(as_fed(life, bound=False), lambda _: FAILURES)
    assert fold(items).jobs[0].standing.state == "succeeded"


@given(lives(), st.booleans(), arguments)
def test_of_none_nothing_is_left(life, bound, kept):
    """Issue 6, 3: also where programs publish and record that know no policy."""
    told = [*life.items, *as_fed(life, bound=bound)]
    items, left = recorded(told, lambda _: Policy("none", kept))
    assert items == []
    assert left == len(told)


@given(lives())
def test_everything_is_everything(life):
    """Without a policy each item stays as it is."""
    assert recorded(life.items, lambda _: EVERYTHING) == (life.items, 0)


def test_a_job_that_is_older_than_the_policy_is_told_to_its_end():
    """The ledger has it as queued, and would have it so for ever."""
    for policy in (Policy("failures", since_ms=100), Policy("none", since_ms=100)):
        telling = Telling()
        telling.set(policy)
        for enqueued_ms, known in ((99, True), (100, False), (None, False)):
            job = envelope(enqueued_ms=enqueued_ms)
            told = telling.of_end(job, Succeeded(value=None))
            assert told == (known, False, known)
            items = [FeedItem(envelope=job)]
            if told.recording:
                record = FeedRecord.of(
                    job, FINISHED, at_ms=200, worker="w", outcome="succeeded", owed=told.owed
                )
                items.append(FeedItem(records=decode_feed(encode_feed([record]))))
            kept, _ = recorded(items, {"q": policy}.__getitem__)
            states = [found.standing.state for found in fold(kept).jobs]
            assert states == (["succeeded"] if known else [])


def test_each_queue_has_its_own_policy():
    """One message of the feed may hold records of several queues."""
    records = tuple(
        FeedRecord.of(
            msgspec.structs.replace(envelope(), queue=queue),
            FINISHED,
            at_ms=1,
            worker="w",
            outcome="succeeded",
        )
        for queue in ("all", "failures", "none")
    )
    policies = {"all": EVERYTHING, "failures": FAILURES, "none": Policy("none")}
    ((item,), left) = recorded([FeedItem(records=records)], policies.__getitem__)
    assert [record.queue for record in item.records] == ["all"]
    assert left == 2


def test_a_released_job_waits_again():
    """B-12: its copy is not in the feed where its queue is left out; this record stands for it."""
    parked = FeedRecord.of(envelope(), FINISHED, at_ms=5, worker="w", outcome="parked")
    copy = msgspec.structs.replace(envelope(), attempt=2)
    released = FeedRecord.of(copy, RELEASED, at_ms=9, worker="ann", due=9)
    batch = fold([FeedItem(records=(released,)), FeedItem(records=(parked,))])
    assert (batch.jobs[0].standing.state, batch.jobs[0].standing.due_ms) == ("queued", 9)
    assert [run.outcome for run in batch.runs] == ["parked"]


@pytest.mark.parametrize(
    ("kept", "seen"),
    [("redacted", {"card": "‹redacted›", "n": "‹redacted›"}), ("none", "‹not recorded›")],
)
def test_arguments_are_left_out(kept, seen):
    """Issue 6, 3: of a published job, and of one that a failure carries; neither in the row, nor
    among what it can be searched by; and nobody can send it again from there.
    """
    failed = FeedRecord.of(
        envelope(), FINISHED, at_ms=1, worker="w", outcome="failed", request=envelope()
    )
    for item in (FeedItem(envelope=envelope()), FeedItem(records=(failed,))):
        items, _ = recorded([item], lambda _: Policy("all", kept))
        (job,) = fold(items).jobs
        assert job.request is not None
        assert job.request.facets is None
        assert b"4111" not in job.request.envelope
        looked = envelope_of(job.request.envelope)
        assert looked is not None
        assert shown(looked) == seen
        assert arguments_of(looked) == kept
        with pytest.raises(NotRecorded, match="not in the ledger"):
            unpack(job.request.envelope)


def test_without_its_arguments_a_job_is_not_changed_but_cancelled():
    """Issue 6, 3: nobody publishes it anew; to give it up its arguments are not needed."""
    items, _ = recorded(
        [FeedItem(envelope=envelope(enqueued_ms=5))], lambda _: Policy("all", "none")
    )
    (job,) = fold(items).jobs
    assert job.request is not None
    row: Any = {
        "id": job.id,
        "state": "queued",
        "attempt": 1,
        "generation": 1,
        "deliveries": 1,
        "worker": None,
        "started_ms": None,
        "envelope": job.request.envelope,
    }
    wish = Asked(generation=2, token="t", change=JobChange(priority=9))
    step = step_of(row, wish, by="ann", now_ms=9)
    assert isinstance(step, Refuse)
    assert "its arguments are not in the ledger" in step.text
    assert isinstance(end_of(row, asked_ms=9), End)
    assert cancelled(row, now_ms=9).standing.state == "cancelled"


@given(st.binary(max_size=40))
def test_what_has_no_names_is_left_out_as_a_whole(body):
    """A body that is no JSON object, or encrypted, is nothing that names could be kept of."""
    for each in (envelope(body), envelope(body, content_type="application/vnd.taskyard.encrypted")):
        found = without_arguments(each, "redacted")
        assert arguments_of(found) == (
            "redacted"
            if body.strip() == b"{}" and each.content_type == "application/json"
            else "none"
        )
        assert (found.enc_key, found.enc_nonce) == (None, None)


@given(policies, policies)
def test_a_policy_travels_in_the_control_log(first, then):
    """The last record counts; pauses of the queue are another matter."""
    intents = Intents()
    told = [policy_record("mail", each, by="ann", at_ms=1) for each in (first, then)]
    intents.apply(decode_records(encode_records(told)))
    assert policy_of(intents.others, "mail") == then
    assert policies_of(intents.others) == {"mail": then}
    assert policy_of(intents.others, "shop") == EVERYTHING
    assert intents.live(0) == told[1:], "compaction writes it again"


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        (None, EVERYTHING),
        ({"jobs": "some", "arguments": "hashed"}, Policy("all", "none")),
        ({"jobs": ["none"], "arguments": "full"}, EVERYTHING),
    ],
)
def test_a_policy_of_a_newer_version_keeps_arguments_back(body, policy):
    """What is not known here may mean that they are not to be kept."""
    record = ControlRecord(key="recording:mail:policy", op="record", body=body)
    assert policies_of({record.key: record}) == {"mail": policy}


def test_what_apply_has_to_say():
    """Only what is declared, and otherwise than it is known; others' queues stay left out."""
    spec = SetupSpec(
        queues=(
            QueueSpec(name="same", policy=FAILURES),
            QueueSpec(name="new", policy=Policy("none")),
            QueueSpec(name="back", policy=EVERYTHING),
            QueueSpec(name="plain", policy=EVERYTHING),
            QueueSpec(name="silent"),
        )
    )
    known = dict.fromkeys(("same", "back", "silent", "others"), FAILURES)
    assert changes(spec, known) == (
        Change("new", EVERYTHING, Policy("none")),
        Change("back", FAILURES, EVERYTHING),
    )
    assert left_out(spec, known) == {"same", "new", "silent", "others"}


def test_a_record_carries_a_job_whole():
    """As it was sent, in JSON; so that a failure can be looked at, and run again."""
    job = envelope(b"\x00\xff", app="shop", name="nightly", extra={"ty-next": [1, "x"]})
    record = FeedRecord.of(job, FINISHED, at_ms=1, worker="w", outcome="failed", request=job)
    assert decode_feed(encode_feed([record])) == (record,)
    assert record.bulk == 2


@pytest.mark.parametrize("what", [{"record": "some"}, {"record_arguments": "hashed"}])
def test_a_wrong_policy_is_refused(what):
    """CR-05: what is wrong is named, with what there is."""
    with pytest.raises(ConfigurationError, match="is not (all|full)"):
        Queue("decl-record", **what)
