"""Which publish of a job counts after changes of it: whatever order records and deaths come in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import given, settings, strategies as st

from taskyard.shared.changes import (
    KEPT_MS,
    Answer,
    Asked,
    Change,
    Standing,
    Start,
    answer_record,
    change_record,
    changed_record,
    start_record,
    unchanged_record,
)
from taskyard.shared.control import (
    ControlRecord,
    cancel_record,
    decode_records,
    encode_records,
    token_of,
)
from taskyard.shared.envelope import Envelope
from taskyard.shared.intents import Intents
from taskyard.shared.wire import CHANGED
from taskyard.workers.hearing import aborts, overtaken, replies

JOB = "j"


def asked(generation: int, token: str = "") -> Asked:
    return Asked(
        generation=generation,
        token=token or f"t{generation}",
        change=Change(priority=generation),
    )


def form(generation: int) -> Envelope:
    """The job, published by the change of this generation."""
    note = msgspec.json.encode({"token": f"t{generation}"}).decode()
    extra: dict[str, Any] | None = {CHANGED: note} if generation > 1 else None
    return Envelope(id=JOB, queue="q", task="q.t", generation=generation, extra=extra)


def standing(records: list[ControlRecord], generation: int) -> Standing:
    intents = Intents()
    intents.apply(decode_records(encode_records(records)))
    return intents.standing_of(form(generation))


def wanted(generation: int) -> ControlRecord:
    return change_record(JOB, asked(generation), by="me", at_ms=1)


def done(generation: int) -> ControlRecord:
    return changed_record(JOB, asked(generation), by="me", at_ms=2, until_ms=9)


def withdrawn(generation: int) -> ControlRecord:
    return unchanged_record(JOB, asked(generation), by="me", at_ms=2)


def started(token: str, generation: int = 1) -> ControlRecord:
    start = Start(of=token, generation=generation, worker="host:1")
    return start_record(JOB, start, at_ms=2)


def test_before_during_and_after_a_change():
    """ZP-23, B-32: it waits while it is undecided, and then the new form counts alone."""
    assert standing([], 1) is Standing.CURRENT
    assert standing([wanted(2)], 1) is Standing.UNDECIDED
    assert standing([wanted(2)], 2) is Standing.CURRENT
    assert standing([wanted(2), done(2)], 1) is Standing.SUPERSEDED
    assert standing([wanted(2), done(2)], 2) is Standing.CURRENT
    assert standing([wanted(2), done(2)], 3) is Standing.CURRENT
    assert standing([wanted(2), withdrawn(2)], 1) is Standing.CURRENT


def test_a_job_that_had_started_stays_as_it_was():
    """Whoever ran it says so: the change is void, also what was published for it meanwhile."""
    for records in ([wanted(2), started("t2")], [wanted(2), done(2), started("t2")]):
        assert standing(records, 1) is Standing.CURRENT
        assert standing(records, 2) is Standing.SUPERSEDED
    assert standing([started("t2"), wanted(3)], 1) is Standing.UNDECIDED


def test_what_was_old_before_a_void_change_is_still_old():
    """The second change came too late for what the first had published, and that alone runs."""
    records = [wanted(2), done(2), wanted(3), started("t3", generation=2)]
    assert standing(records, 1) is Standing.SUPERSEDED
    assert standing(records, 2) is Standing.CURRENT
    assert standing([*records, done(3)], 1) is Standing.SUPERSEDED
    assert standing([*records, done(3)], 3) is Standing.SUPERSEDED


def test_an_edit_after_a_void_change_counts():
    """The job ran as it was, was parked and edited: that is of the void change's generation too."""
    intents = Intents()
    intents.apply([wanted(2), done(2), started("t2")])
    assert intents.standing_of(form(2)) is Standing.SUPERSEDED
    edited = msgspec.structs.replace(form(1), generation=2)
    assert intents.standing_of(edited) is Standing.CURRENT


def test_an_answered_change_is_not_open_again():
    """Who writes live intents again has read them before the answer, and writes them after it."""
    assert standing([wanted(2), done(2), wanted(2)], 1) is Standing.SUPERSEDED
    assert standing([wanted(2), withdrawn(2), wanted(2)], 1) is Standing.CURRENT
    again = change_record(JOB, asked(2, "other"), by="me", at_ms=3)
    assert standing([wanted(2), withdrawn(2), again], 1) is Standing.UNDECIDED
    assert standing([wanted(2), done(2), wanted(3), withdrawn(3), done(2), wanted(3)], 1) is (
        Standing.SUPERSEDED
    )


def test_what_is_old_is_known_for_longer_than_the_old_message_waits():
    """ZP-23: due in a year: its message from before does not run then either."""
    due_ms = 365 * 86_400_000
    record = changed_record(JOB, asked(2), by="me", at_ms=0, until_ms=due_ms)
    assert record.expires == due_ms + KEPT_MS


def test_a_change_that_ends_does_not_overtake_one_that_was_asked_for_since():
    """Of a job's changes that of the highest generation counts, whatever the log's order."""
    assert standing([wanted(2), wanted(3), done(2)], 2) is Standing.UNDECIDED
    assert standing([wanted(2), wanted(3), withdrawn(2)], 1) is Standing.UNDECIDED
    assert standing([wanted(2), wanted(3), done(2), done(3)], 2) is Standing.SUPERSEDED


def test_what_an_earlier_change_made_old_stays_old():
    """The next one is refused: then the earlier one is said again."""
    records = [wanted(2), done(2), wanted(3), withdrawn(3), done(2)]
    assert standing(records, 1) is Standing.SUPERSEDED
    assert standing(records, 2) is Standing.CURRENT


def test_a_cancel_and_a_change_do_not_know_of_each_other():
    """Each has a key of its own, and so have answers."""
    intents = Intents()
    intents.apply([cancel_record(JOB, by="me", at_ms=1), wanted(2), started("t2")])
    intents.apply([answer_record(JOB, Answer(of="t", done=True), by="me", at_ms=3)])
    assert intents.cancel_of(JOB) is not None
    assert intents.change_of(JOB) is not None
    assert intents.changed_ms(JOB) == 1
    assert intents.changed_ms("other") is None
    assert {record.key for record in intents.live(4)} == {
        "job:j:cancel",
        "job:j:change",
        "job:j:started",
        "job:j:answer",
    }


def test_a_change_that_cannot_be_read_changes_nothing():
    """A record of another version, or of anybody."""
    bodies: tuple[dict[str, object] | None, ...] = (None, {}, {"generation": "many"})
    for body in bodies:
        record = ControlRecord(key="job:j:change", op="change", at=1, body=body)
        assert standing([record], 1) is Standing.CURRENT


@dataclass
class World:
    """A job, a driver and two workers, as far as the rules of forms go.

    The driver publishes a form and then says so; each worker may be behind in the log. Messages that
    were published and neither run nor given up are in `messages`.
    """

    log: list[ControlRecord] = field(default_factory=list[ControlRecord])
    messages: list[int] = field(default_factory=lambda: [1])
    runs: list[int] = field(default_factory=list[int])

    def meet(self, generation: int, read: int) -> None:
        """A worker that has read so much of the log meets a form of the job."""
        verdict = standing(self.log[:read], generation)
        if verdict is not Standing.UNDECIDED:
            self.messages.remove(generation)
        if verdict is Standing.CURRENT:
            self.runs.append(generation)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_workers_that_keep_up_run_it_once(data: st.DataObject) -> None:
    """Changes and meetings in any order: one run, in the last form that was published before it."""
    world = World()
    newest, published = 1, wanted(1)
    for n in range(data.draw(st.integers(0, 6))):
        if world.runs or not data.draw(st.booleans()):
            break
        generation = newest + 1
        wish = asked(generation, f"t{n}")
        world.log.append(change_record(JOB, wish, by="me", at_ms=1))
        for form_ in data.draw(st.lists(st.sampled_from(world.messages), max_size=3)):
            if form_ in world.messages:
                world.meet(form_, len(world.log))
        assert not world.runs
        if data.draw(st.booleans()):
            world.messages.append(generation)
            published = changed_record(JOB, wish, by="me", at_ms=2, until_ms=9)
            world.log.append(published)
            newest = generation
        else:
            world.log.append(unchanged_record(JOB, wish, by="me", at_ms=2))
            if newest > 1:
                world.log.append(published)
    for form_ in data.draw(st.permutations(world.messages)):
        world.meet(form_, len(world.log))
    assert world.runs == [newest]
    assert world.messages == []


def test_a_worker_says_what_it_was_running():
    """Of changes that are younger than what it runs, and of cancels that somebody waits for."""
    running = {JOB: msgspec.structs.replace(form(1), attempt=3)}
    cancel = cancel_record(JOB, by="me", at_ms=1, token="c1")
    quiet = cancel_record(JOB, by="me", at_ms=1, abort=True)
    other = cancel_record("other", by="me", at_ms=1, abort=True, token="c2")
    said = replies(
        [wanted(1), wanted(2), done(3), withdrawn(4), cancel, quiet, other],
        running,
        worker="host:1",
        now_ms=5,
    )
    assert [(record.key, (record.body or {})["of"]) for record in said] == [
        ("job:j:started", "t2"),
        ("job:j:started", "t3"),
        ("job:j:answer", "c1"),
    ]
    assert "attempt 3 was running (host:1)" in str((said[-1].body or {})["text"])
    assert overtaken([wanted(2), done(3), done(2), wanted(9)], running) == {JOB: 3}
    assert overtaken([done(1), withdrawn(4)], running) == {}
    assert aborts([cancel, quiet, other], running) == [(JOB, "me")]
    assert token_of(quiet) == ""
