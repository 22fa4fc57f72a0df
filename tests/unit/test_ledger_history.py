"""What the ledger makes of the feed: the same, in whatever order and however often it is told."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from support.lives import Life, lives, tellings
from taskyard.ledger.database import Database
from taskyard.ledger.facets import facets_of
from taskyard.ledger.history import fold, job_of_record, rank_of, run_of, unpack
from taskyard.ledger.rows import Batch, Job, Run, merge_jobs, merge_runs
from taskyard.ledger.schema import jobs, metadata, runs
from taskyard.ledger.writing import merge
from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, FeedItem, FeedRecord


@settings(max_examples=300)
@given(lives())
def test_a_life_ends_where_it_ended(life):
    """The state is the last thing that happened, not the last thing that was heard."""
    (job,) = fold(life.items).jobs
    assert (job.standing.state, job.standing.attempt) == (life.state, life.attempt)


@given(tellings())
def test_the_order_of_the_feed_makes_no_difference(telling):
    """Issue 6, 2: idempotent in any order and under duplication; one batch or many."""
    life, batches = telling
    assert merged(batches) == fold(life.items)


@settings(max_examples=60, deadline=None)
@given(tellings())
def test_nor_does_it_in_the_database(telling):
    """The statements that merge say the same as the functions that do."""
    life, batches = telling
    assert asyncio.run(_written(batches)) == asyncio.run(_written([life.items]))


def test_of_two_runs_of_one_delivery_the_later_counts():
    """B-13: a hand-back and what it was of share attempt and deliveries; each order of these facts."""
    life = Life("one")
    life.go_on("handed_back", told=True)
    life.start()
    expected = asyncio.run(_written([life.items]))
    for told in itertools.permutations(life.items):
        assert asyncio.run(_written([[item] for item in told])) == expected


def merged(batches: list[list[FeedItem]]) -> Batch:
    """Fold batches one by one, as several transactions would."""
    found: dict[str, Job] = {}
    ran: dict[tuple[str, int, int, str], Run] = {}
    for batch in map(fold, batches):
        for job in batch.jobs:
            found[job.id] = merge_jobs(found[job.id], job) if job.id in found else job
        for run in batch.runs:
            ran[run.key] = merge_runs(ran[run.key], run) if run.key in ran else run
    return Batch([found[key] for key in sorted(found)], [ran[key] for key in sorted(ran)])


async def _written(batches: list[list[FeedItem]]) -> list[tuple[object, ...]]:
    database = Database("sqlite://")
    try:
        async with database.begin() as connection:
            await connection.run_sync(metadata.create_all)
            for batch in batches:
                await merge(connection, fold(batch))
            rows = (await connection.execute(jobs.select().order_by(jobs.c.id))).all()
            ran = (await connection.execute(runs.select().order_by(*runs.primary_key))).all()
        return [tuple(row) for row in (*rows, *ran)]
    finally:
        await database.close()


def test_a_hand_back_is_not_the_end():
    """B-13: handed back and running again, of the same attempt and delivery: it runs."""
    life = Life("one")
    life.go_on("handed_back", told=True)
    assert fold(life.items).jobs[0].standing.state == "queued"
    life.start()
    assert fold(reversed(life.items)).jobs[0].standing.state == "running"


def test_ranks_keep_their_order_at_their_limits():
    """What is beyond a rank's room counts as the most that there is room for, and never overflows."""
    ranks = [
        rank_of(1, 1, 1, 1),
        rank_of(1, 1, 1, 4),
        rank_of(1, 1, 2, 1),
        rank_of(1, 2, 1, 1),
        rank_of(2, 1, 1, 1),
        rank_of(2**20 - 1, 2**20 - 1, 2**18 - 1, 4),
    ]
    assert ranks == sorted(set(ranks))
    assert rank_of(10**12, 10**12, 10**12, 4) == ranks[-1] < 2**63


def envelope(body: bytes, **more: Any) -> Envelope:
    return Envelope(id="a", queue="q", task="t", body=body, **more)


def test_plain_arguments_can_be_searched_by():
    """Issue 6, 5: text, numbers and truth at the top; no more than that."""
    body = b'{"n": 7, "s": "x", "t": true, "f": 1.5, "none": null, "list": [1], "sub": {"n": 1}}'
    assert facets_of(envelope(body)) == '{"n":7,"s":"x","t":true,"f":1.5}'


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[1]",
        b"\xff",
        b'{"a": "' + b"x" * 201 + b'"}',
        b'{"a": 99999999999999999999}',
        b'{"a": "\\u0000"}',
        b'{"a": {"$secret": "x"}}',
        b'{"a": "' + b"x" * 70_000 + b'", "b": 1}',
    ],
)
def test_others_cannot(body):
    """What the databases could not hold, what is long, and what is encrypted."""
    assert facets_of(envelope(body)) is None


def test_encrypted_bodies_are_kept_as_they_are():
    """ZS-21: nothing of it is read; what was published can be published again."""
    sealed = envelope(
        b"\x00\x01secret",
        content_type="application/vnd.taskyard.encrypted",
        enc_key="k",
        enc_nonce="n",
    )
    (job,) = fold([FeedItem(envelope=sealed)]).jobs
    assert job.request is not None
    assert job.request.facets is None
    assert unpack(job.request.envelope) == sealed


def test_foreign_labels_fit_into_an_index():
    """ZS-07, ZP-27: PostgreSQL refuses a row whose indexed text is longer than its page allows."""
    long = "\U0001f600" * 5000
    (job,) = fold([FeedItem(envelope=envelope(b"{}", name=long, submitted_from=long + "\0"))]).jobs
    assert job.request is not None
    for text in (job.request.name, job.request.submitted_from):
        assert text is not None
        assert 0 < len(text.encode()) < 2704


def test_text_that_postgresql_does_not_store_is_replaced():
    """It knows no NUL: one such error text must not stop the feed."""
    life = Life("one")
    life.go_on("failed", told=False)
    record = life.items[-1].records[0]
    assert record.error is not None
    error = msgspec.structs.replace(record.error, message="a\0b", traceback="\0")
    bad = msgspec.structs.replace(record, error=error, worker="h\0", detail="\0")
    for row in (job_of_record(bad).standing, run_of(bad)):
        assert "\0" not in repr(msgspec.structs.asdict(row)).replace("\\x00", "\0")
        assert row.error_message == "a\N{REPLACEMENT CHARACTER}b"


def test_a_record_of_a_newer_version_is_left_out():
    """Readers ignore what they do not know."""
    record = FeedRecord.of(envelope(b"{}"), "dreamt", at_ms=1, worker="w")
    assert fold([FeedItem(records=(record,))]) == Batch([], [])


def test_a_tenant_is_found_in_the_propagated_values():
    """GM-04: jobs can be listed by tenant."""
    for context, tenant in (
        ('{"tenant":"acme"}', "acme"),
        ('{"tenant":7}', "7"),
        ('{"other":"tenant"}', None),
        ("tenant", None),
        (None, None),
    ):
        (job,) = fold([FeedItem(envelope=envelope(b"{}", context=context))]).jobs
        assert job.request is not None
        assert job.request.tenant == tenant


def test_a_value_and_what_the_handler_said_are_kept():
    """ZS-04, B-10: also an empty word."""
    record = FeedRecord.of(
        envelope(b"{}", message_id="m"),
        FINISHED,
        at_ms=1000,
        worker="w",
        outcome="succeeded",
        value=msgspec.Raw(b'{"sum":5}'),
        ok="",
        run_ms=30,
    )
    batch = fold([FeedItem(records=(record,))])
    assert (batch.runs[0].value, batch.runs[0].ok) == ('{"sum":5}', "")
    standing = batch.jobs[0].standing
    assert (standing.ok, standing.started_ms, standing.ended_ms) == ("", 970, 1000)
