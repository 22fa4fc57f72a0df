"""What is kept of a job's output: its beginning, cut between characters, and marked."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, FeedRecord, encode_feed
from taskyard.shared.settings import OUTPUT_MAX_BYTES
from taskyard.workers.captured import Captured, line_of


def test_what_fits_is_kept_as_it_is():
    captured = Captured(10)
    captured.write("12345")
    captured.write("67890")
    assert captured.text() == "1234567890"


def test_what_does_not_is_cut_and_marked():
    """ZS-42: at the cap, with how much was left out."""
    captured = Captured(8)
    captured.write("12345")
    captured.write("67890")
    captured.write("x")
    assert captured.text() == "12345678\n[3 bytes more were left out]"


@given(st.lists(st.text()), st.integers(0, 50))
def test_no_more_than_its_bytes(pieces, limit):
    """Whatever is written, in whatever pieces: a beginning of it, within the limit."""
    captured = Captured(limit)
    for piece in pieces:
        captured.write(piece)
    whole = "".join(pieces).encode("utf-8", "replace")
    kept, _, mark = (
        captured.text().rpartition("\n[") if len(whole) > limit else (captured.text(), "", "")
    )
    assert len(kept.encode()) <= limit
    assert whole.startswith(kept.encode())
    if mark:
        assert mark == f"{len(whole) - len(kept.encode())} bytes more were left out]"


@pytest.mark.parametrize("at", range(6))
def test_threads_that_write_at_once_do_not_lift_the_limit(at: int):
    """One that another interrupts, at whichever line: what comes afterwards is still cut."""
    captured = Captured(8)
    lines = iter(range(100))

    def interrupt(frame: FrameType, event: str, arg: object) -> Any:
        del arg
        if frame.f_code is not Captured.write.__code__:
            return None
        if event == "line" and next(lines) == at:
            captured.write("12345")
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        captured.write("67890")
    finally:
        sys.settrace(before)
    assert next(lines) > at
    captured.write("x" * 100)
    kept, _, mark = captured.text().partition("\n[")
    assert len(kept) <= 10
    assert mark


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb"])
def test_what_is_no_text_is_replaced(text):
    """Lone surrogates, as of undecodable file names, cannot be stored anywhere."""
    captured = Captured(100)
    captured.write(text)
    assert "?" in captured.text()


def test_the_largest_output_fits_a_message():
    """RabbitMQ takes 16 MiB, with the largest value in it as well, whatever JSON makes of the text."""
    captured = Captured(OUTPUT_MAX_BYTES)
    captured.write("\x1b" * (OUTPUT_MAX_BYTES + 1))
    envelope = Envelope(id="a", queue="q", task="t")
    record = FeedRecord.of(envelope, FINISHED, at_ms=1, worker="w", output=captured.text())
    assert len(encode_feed([record])) < 15 * 1024 * 1024


def test_a_log_line():
    assert line_of(0.5, "WARNING", "shop.mail", "sent", {"to": "x", "n": 7}) == (
        "00:00:00.500 warning shop.mail: sent to='x' n=7\n"
    )
