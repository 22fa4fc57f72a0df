"""What a broker says when a declaration differs, read."""

from __future__ import annotations

import pytest

from taskyard.shared.adapters.amqp.channel import ChannelClosed
from taskyard.shared.adapters.amqp.survey import read_mismatch

HEAD = "PRECONDITION_FAILED - inequivalent arg"


@pytest.mark.parametrize(
    ("text", "facet", "received", "current"),
    [
        (
            (
                f"{HEAD} 'x-dead-letter-exchange' for queue 't.q.a' in vhost '/': received none but "
                "current is the value 't.parked' of type 'longstr'"
            ),
            "x-dead-letter-exchange",
            None,
            "t.parked",
        ),
        (
            f"{HEAD} 'x-max-priority' for queue 't.q.a' in vhost 'it's': received '5' but current is '9'",
            "x-max-priority",
            "5",
            "9",
        ),
        (
            (
                f"{HEAD} 'x-max-length' for queue 't.q.a' in vhost '/': received the value '5' of type "
                "'signedint' but current is none"
            ),
            "x-max-length",
            "5",
            None,
        ),
    ],
)
def test_a_mismatch_is_read(text: str, facet: str, received: str | None, current: str | None):
    """Object, argument and both values are found in each form that RabbitMQ uses."""
    found = read_mismatch(ChannelClosed(406, text))
    assert found is not None
    assert (found.kind, found.name, found.facet) == ("queue", "t.q.a", facet)
    assert (found.received, found.current) == (received, current)


@pytest.mark.parametrize(
    "end", ["received the value 't.parked' of type 'longstr' but curren", "rec"]
)
def test_a_text_that_was_cut_still_names_the_argument(end: str) -> None:
    """AMQP carries 255 bytes of text; what is cut off is not guessed."""
    text = f"{HEAD} 'type' for exchange 't.parked' in vhost 'long': {end}..."
    found = read_mismatch(ChannelClosed(406, text))
    assert found is not None
    assert str(found) == "exchange t.parked exists with another type than wanted"


def test_other_refusals_are_not_mismatches() -> None:
    """Other codes and other words are left to whoever asked."""
    assert read_mismatch(ChannelClosed(404, f"{HEAD} 'x' for queue 'q' in vhost '/'")) is None
    assert read_mismatch(ChannelClosed(406, "PRECONDITION_FAILED - unknown delivery tag 1")) is None
