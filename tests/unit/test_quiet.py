"""When a pause with `--wait` may say that nothing runs any more."""

from __future__ import annotations

import pytest

from taskyard.broker_setup.quiet import Quiet, wait_quiet
from taskyard.shared.broker import Capabilities, QueueStats
from taskyard.shared.clock import VirtualClock


def numbers(unsettled: int | None = 0, consumers: int | None = 0) -> dict[str, QueueStats]:
    return {"q": QueueStats(unsettled=unsettled, consumers=consumers)}


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        (numbers(unsettled=2), "2 jobs run"),
        (numbers(unsettled=1), "1 job runs"),
        (numbers(consumers=3), "3 consumers"),
        (numbers(unsettled=None), "TASKYARD_MANAGEMENT_URL"),
        (numbers(), ""),
        (numbers(consumers=None), ""),
        ({"q": QueueStats(exists=False)}, ""),
    ],
)
def test_what_is_seen_is_judged(stats: dict[str, QueueStats], words: str) -> None:
    """ZS-53: consumers may begin a job at any moment, and a number that is not told is no zero."""
    quiet = Quiet(lag_s=0)
    assert quiet.look(10.0, 10.1, stats) is (not words)
    assert words in quiet.busy.get("q", "")


def test_an_old_number_does_not_count() -> None:
    """A zero from before the last consumer had gone says nothing: a job may have begun after it."""
    quiet = Quiet(lag_s=6)
    assert not quiet.look(0.0, 0.1, numbers(consumers=1))
    assert not quiet.look(1.0, 1.2, numbers())
    assert "6 s old" in quiet.busy["q"]
    assert not quiet.look(7.1, 7.1, numbers())
    assert quiet.look(7.2, 7.3, numbers())


def test_a_consumer_that_comes_back_starts_it_anew() -> None:
    """A worker that had not heard of the pause may have begun a job meanwhile."""
    quiet = Quiet(lag_s=6)
    quiet.look(0.0, 0.0, numbers())
    assert not quiet.look(6.5, 6.5, numbers(consumers=1))
    assert not quiet.look(7.0, 7.0, numbers())
    assert quiet.look(13.0, 13.0, numbers())


async def test_who_waits_is_told_what_still_runs() -> None:
    """ZS-53: after its time the wait ends with the queues that are not quiet, in words."""

    class Busy:
        capabilities = Capabilities()

        async def stats(self, queues: list[str]) -> dict[str, QueueStats]:
            return {queue: QueueStats(unsettled=int(queue == "b"), consumers=0) for queue in queues}

    broker = Busy()
    found = await wait_quiet(broker, ["a", "b"], within_s=0, clock=VirtualClock())  # type: ignore[arg-type]
    assert found == {"b": "1 job runs"}
    assert await wait_quiet(broker, ["a"], within_s=0) == {}  # type: ignore[arg-type]
