"""What a worker and a child process say to each other: every message, in pieces of any size."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, strategies as st

from taskyard.shared.envelope import Envelope, Parking
from taskyard.shared.job import ResolvedOptions
from taskyard.shared.outcomes import (
    Cancelled,
    ErrorInfo,
    Failed,
    HandedBack,
    Parked,
    Retried,
    Succeeded,
)
from taskyard.shared.retry import RetryPolicy
from taskyard.shared.states import FailureKind, ParkReason
from taskyard.workers.isolation.messages import (
    HEAD,
    BrokenFrame,
    DeadlineSoon,
    End,
    Ended,
    Frames,
    Logged,
    NotSent,
    Order,
    Progressed,
    Send,
    Sent,
    Setup,
    ToChild,
    Touched,
    ToWorker,
    decode_to_child,
    decode_to_worker,
    encode,
)

texts = st.text(max_size=20)
numbers = st.integers(0, 2**40)
seconds = st.floats(0, 1e6)
errors = st.builds(ErrorInfo, type=texts, message=texts, traceback=texts, fingerprint=texts)
simple = st.one_of(st.none(), st.booleans(), numbers, texts, st.binary(max_size=9))
values = st.dictionaries(texts, simple, max_size=3)
envelopes = st.builds(
    Envelope,
    id=texts,
    queue=texts,
    task=texts,
    body=st.binary(max_size=200),
    reply=st.lists(texts, max_size=2).map(tuple),
    not_before_ms=st.none() | numbers,
    extra=st.none() | values,
    parking=st.none() | st.builds(Parking, reason=texts, error=st.none() | errors),
)
options = st.builds(
    ResolvedOptions,
    delay_s=st.none() | seconds,
    at_ms=st.none() | numbers,
    retry=st.none() | st.just(RetryPolicy(attempts=2)),
    values=st.none() | values,
    name=st.none() | texts,
)
outcomes = st.one_of(
    st.builds(Succeeded, value=st.none()),
    st.builds(Retried, delay_ms=numbers, error=st.none() | errors),
    st.builds(Parked, reason=st.sampled_from(ParkReason), detail=texts, error=errors),
    st.builds(Failed, kind=st.sampled_from(FailureKind), message=texts, error=errors),
    st.builds(Cancelled, by=texts),
    st.builds(HandedBack, charged=st.booleans()),
)
to_child = st.one_of(
    st.builds(Setup, queue=texts, modules=st.just(("a",)), path=st.just(("",)), log_level=numbers),
    st.builds(Order, envelope=envelopes, ttr_s=seconds, now_ms=numbers, deadline_ms=numbers),
    st.builds(DeadlineSoon),
    st.builds(Sent, number=numbers, job_id=texts),
    st.builds(NotSent, number=numbers, error=texts, text=texts, fields=st.just({"a": "b", "n": 1})),
    st.builds(End),
)
to_worker = st.one_of(
    st.builds(Touched, ttr_s=st.none() | seconds),
    st.builds(Progressed, done=seconds, total=st.none() | seconds, note=texts),
    st.builds(
        Send, number=numbers, id=texts, queue=texts, task=texts, body=st.binary(), options=options
    ),
    st.builds(Logged, line=texts),
    st.builds(Ended, outcome=outcomes, value=st.none() | st.binary(max_size=50), problem=texts),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@given(st.lists(to_child, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_what_a_worker_says_arrives(messages, sizes):
    """Each message comes out as it went in, wherever the socket cuts."""
    frames = Frames()
    stream = b"".join(map(encode, messages))
    got = [decode_to_child(body) for piece in cut(stream, sizes) for body in frames.feed(piece)]
    assert got == messages


@given(st.lists(to_worker, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_what_a_child_says_arrives(messages, sizes):
    """Outcomes of every class, with their errors; options of a job that is sent."""
    frames = Frames()
    stream = b"".join(map(encode, messages))
    got = [decode_to_worker(body) for piece in cut(stream, sizes) for body in frames.feed(piece)]
    assert got == messages


@given(st.binary(max_size=60))
def test_nonsense_is_refused(data):
    """Whatever else a broken child writes is an error of this one class, never another's message."""
    try:
        decoded = decode_to_worker(data)
    except BrokenFrame:
        return
    assert isinstance(decoded, get_args(ToWorker))


def test_a_frame_without_bounds_is_refused_at_its_head():
    """Before anything of it is kept."""
    frames = Frames(limit_bytes=10)
    assert list(frames.feed((10).to_bytes(HEAD, "big") + b"x" * 10)) == [b"x" * 10]
    with pytest.raises(BrokenFrame, match="11 bytes"):
        list(frames.feed((11).to_bytes(HEAD, "big")))


def test_directions_are_apart():
    """A child cannot be talked into what only a worker does, and the other way round."""
    assert not set(get_args(ToChild)) & set(get_args(ToWorker))
    with pytest.raises(BrokenFrame):
        decode_to_child(encode(Touched(None))[HEAD:])
    with pytest.raises(BrokenFrame):
        decode_to_worker(encode(End())[HEAD:])


def test_an_envelope_of_a_stranger_travels():
    """Headers that MessagePack does not know do not stop a job on its way into a child."""
    envelope = Envelope(id="j", queue="q", task="q.t", extra={"x": 3 + 4j, "n": [1, b"2"]})
    order = Order(envelope=envelope, ttr_s=1, now_ms=2, deadline_ms=3)
    (body,) = Frames().feed(encode(order))
    got = decode_to_child(body)
    assert isinstance(got, Order)
    assert got.envelope.extra == {"x": "(3+4j)", "n": [1, b"2"]}


def test_text_that_is_no_utf_8_is_a_broken_frame() -> None:
    """It is no `DecodeError`: the child has to be killed for it all the same."""
    said = encode(Logged("words"))[HEAD:]
    with pytest.raises(BrokenFrame):
        decode_to_worker(said.replace(b"words", b"w\xff\xfeds"))
