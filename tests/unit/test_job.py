"""Jobs as values: their options, their id, and how they travel."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from taskyard.shared import ConfigurationError, InvalidArguments, Job, RetryPolicy, bind_values
from taskyard.shared.retry import decode_policy

NOW_MS = 1_800_000_000_000


def job(**options) -> Job[object]:
    return Job(queue="mail", task="send", args={"to": "a@example.org"}, **options)


def test_the_id_is_minted_once_and_stays() -> None:
    """A job has its id before it is sent; options make copies of the same job (ZP-03)."""
    made = job()
    changed = made.options(priority="high").options(delay=5)
    assert made.id == changed.id
    assert made.envelope(NOW_MS).id == changed.envelope(NOW_MS + 1).id
    assert job().id != made.id
    assert made.id[14] == "7", "a UUID of version 7"


def test_ids_are_ordered_by_time() -> None:
    """Ids sort in the order in which the jobs were made."""
    ids = [job().id for _ in range(1000)]
    assert ids == sorted(ids)


def test_arguments_are_frozen_when_the_job_is_made() -> None:
    """What happens to an argument afterwards is not seen by the job (ZS-03)."""
    items = [1]
    made = Job[object](queue="mail", task="send", args={"items": items})
    items.append(2)
    assert made.envelope(NOW_MS).body == b'{"items":[1]}'


def test_a_job_does_not_change() -> None:
    """A job is a value: setting an attribute is refused, and says how to get a changed copy."""
    with pytest.raises(AttributeError, match="options"):
        job().queue = "other"


def test_a_job_shows_no_arguments() -> None:
    """Arguments may be secret: neither repr nor errors show them."""
    assert "example.org" not in repr(job())


def test_defaults_travel_as_nothing() -> None:
    """A job without options carries no header beyond what it must."""
    envelope = job().envelope(NOW_MS)
    assert envelope.priority == 4
    assert envelope.task == "mail.send"
    assert envelope.enqueued_ms == NOW_MS
    left = (envelope.not_before_ms, envelope.expires_ms, envelope.ttr_ms, envelope.retry)
    assert left == (None, None, None, None)
    assert envelope.context is None
    assert envelope.reply == ()


def test_all_options_travel() -> None:
    """Each option is found in the envelope, in the wire's units (ZS-08, ZS-11)."""
    policy = RetryPolicy(attempts=7, first=0.5, jitter="none")
    made = job(
        priority="urgent", delay="2m", ttr="90s", expires="1h", retry=policy, reply=True, app="shop",
        values={"tenant": "acme"},
    )  # fmt: skip
    envelope = made.envelope(NOW_MS, app="other", parent="p", reply="inbox")
    assert envelope.priority == 9
    assert envelope.not_before_ms == NOW_MS + 120_000
    assert envelope.ttr_ms == 90_000
    assert envelope.expires_ms == NOW_MS + 3_600_000
    assert envelope.retry is not None
    assert decode_policy(envelope.retry) == policy
    assert envelope.reply == ("inbox",)
    assert envelope.app == "shop", "the job's own application wins over the producer's"
    assert envelope.context == '{"tenant":"acme"}'
    assert envelope.parent == "p"


@given(
    name=st.text(
        st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="<>"),
        min_size=2,
        max_size=32,
    )
)
def test_a_name_travels(name: str) -> None:
    """ZS-07: 2 to 32 characters of any kind, kept by further options; None takes it back."""
    named = job(name=name)
    assert named.envelope(NOW_MS).name == name
    assert named.options(priority="high").envelope(NOW_MS).name == name
    assert named.options(name=None).envelope(NOW_MS).name is None
    made = Job[object](queue="checkout", task="verify", args={}, name=name)
    assert made.envelope(NOW_MS).name == name
    assert job().envelope(NOW_MS).name is None


@pytest.mark.parametrize(
    "name", ["", "x", "x" * 33, "a<b", "a>b", "a\nb", "a\x7fb", "a\ud800b", 77]
)
def test_a_name_that_is_not_valid_is_refused(name: Any) -> None:
    """ZS-07: it is said what is wrong with it, where the job is made."""
    with pytest.raises(ConfigurationError, match="name"):
        job(name=name)


def test_who_sends_it_travels() -> None:
    """ZP-27: host and process of the sender."""
    assert job().envelope(NOW_MS, submitted_from="web:7").submitted_from == "web:7"
    assert job().envelope(NOW_MS).submitted_from is None


@given(
    delay_s=st.floats(min_value=0, max_value=3e8),
    now_ms=st.integers(min_value=0, max_value=4_000_000_000_000),
)
def test_a_delay_counts_from_sending(delay_s: float, now_ms: int) -> None:
    """The due time is the sender's instant plus the delay, to the millisecond, never before it."""
    envelope = job(delay=delay_s).envelope(now_ms)
    assert (envelope.not_before_ms or now_ms) == now_ms + round(delay_s * 1000)
    assert envelope.due_ms >= now_ms


@given(
    instant=st.datetimes(
        min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1),
        timezones=st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
    )
)  # fmt: skip
def test_an_instant_means_the_same_in_every_zone(instant: datetime) -> None:
    """`at` is an instant, whatever time zone it is written in (ZS-11)."""
    here = job(at=instant).envelope(0).not_before_ms
    there = job(at=instant.astimezone(UTC)).envelope(0).not_before_ms
    assert here == there == round(instant.timestamp() * 1000)


def test_a_past_instant_means_at_once() -> None:
    """A due time that has passed is none (ZP-05)."""
    past = datetime(2020, 1, 1, tzinfo=UTC)
    assert job(at=past).envelope(NOW_MS).not_before_ms is None
    assert job(delay=0).envelope(NOW_MS).not_before_ms is None


def test_a_later_option_replaces_an_earlier_one() -> None:
    """`at` and `delay` stand for the same thing: the one given last counts; None takes it back."""
    due = datetime(2030, 1, 1, tzinfo=UTC)
    assert job(delay=60).options(at=due).envelope(NOW_MS).not_before_ms == due.timestamp() * 1000
    assert job(at=due).options(delay=60).envelope(NOW_MS).not_before_ms == NOW_MS + 60_000
    assert job(delay=60).options(delay=None).envelope(NOW_MS).not_before_ms is None
    assert job(at=due).options(at=None).envelope(NOW_MS).not_before_ms is None
    assert job(ttr=5).options(ttr=None).envelope(NOW_MS).ttr_ms is None
    assert job(priority=9).options(priority=None).envelope(NOW_MS).priority == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": "highest"}, "highest.*low, normal, high, urgent"),
        ({"priority": 10}, "0 to 9"),
        ({"priority": True}, "True"),
        ({"delay": -1}, "negative"),
        ({"delay": "soon"}, "soon"),
        ({"delay": float("nan")}, "negative or infinite"),
        ({"delay": 1_800_000_000}, "ten years"),
        ({"at": datetime(2030, 1, 1)}, "time zone"),
        ({"at": 1_800_000_000}, "not a datetime"),
        ({"delay": 1, "at": datetime(2030, 1, 1, tzinfo=UTC)}, "either delay or at"),
        ({"ttr": 0}, "above zero"),
        ({"prio": 3}, "unknown option 'prio'.*priority"),
    ],
)
def test_a_wrong_option_is_refused_in_words(options: dict, words: str) -> None:
    """Every wrong option is found when it is set, and its error says what would be right."""
    with pytest.raises(ConfigurationError, match=words):
        job().options(**options)
    with pytest.raises(ConfigurationError, match=words):
        job(**options)


def test_names_are_checked() -> None:
    """Queue and task names are checked when the job is made."""
    with pytest.raises(ConfigurationError, match=r"queue name 'a\.b'"):
        Job(queue="a.b", task="send")
    with pytest.raises(ConfigurationError, match="task name"):
        Job(queue="mail", task="")


def test_arguments_without_a_json_form_are_refused() -> None:
    """What cannot travel as JSON is refused with the task's name (B-28)."""
    with pytest.raises(InvalidArguments, match="mail.send"):
        Job(queue="mail", task="send", args={"f": object()})


def test_values_are_captured_when_sent() -> None:
    """Propagated values are those current at sending, unless the job has its own (B-08)."""
    made = job()
    with bind_values(tenant="acme"):
        assert made.envelope(NOW_MS).context == '{"tenant":"acme"}'
        assert job(values={}).envelope(NOW_MS).context is None
    assert made.envelope(NOW_MS).context is None
