"""Questions to a broker that has just started."""

from __future__ import annotations

import pytest

from taskyard.shared.adapters.amqp.channel import NOT_FOUND, ChannelClosed
from taskyard.shared.adapters.amqp.survey import Questions
from taskyard.shared.errors import Unavailable
from taskyard.shared.topology import QueueObject

AWAY = "NOT_FOUND - home node 'a@localhost' of durable queue 'q' in vhost '/' is down or ina"
LOG = QueueObject("q")


class Link:
    """Answers each question with the next of its answers, over a channel that a refusal closes."""

    is_open = True

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.now_s = 0.0

    async def channel(self) -> Link:
        return self

    async def close(self) -> None: ...

    async def call(self, method: str, **values: object) -> str:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.now_s += 4.0
        if answer.startswith("NOT_FOUND"):
            raise ChannelClosed(NOT_FOUND, answer)
        return answer

    def monotonic_s(self) -> float:
        return self.now_s


async def test_a_queue_on_a_node_that_starts_is_waited_for() -> None:
    """It exists: it is neither made again nor taken for missing."""
    link = Link(AWAY, AWAY, "there")
    async with Questions(link, link) as questions:  # type: ignore[arg-type]
        assert await questions.declare(LOG, passive=True) == "there"


async def test_a_node_that_stays_away_is_an_outage() -> None:
    """Not a missing queue: whoever would create it anew is told to wait."""
    link = Link(AWAY)
    async with Questions(link, link) as questions:  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="home node"):
            await questions.refused(LOG, passive=True)
    assert 10 <= link.now_s <= 20


async def test_what_does_not_exist_is_said_at_once() -> None:
    """The same code, other words."""
    link = Link("NOT_FOUND - no queue 'q' in vhost '/'")
    async with Questions(link, link) as questions:  # type: ignore[arg-type]
        assert await questions.refused(LOG, passive=True) is not None
    assert link.now_s == 4
