"""What became of every order: the lifecycle feed and the shop's database, held against each other."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from taskyard.shared.feed import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskyard.shared.feed import FeedItem, FeedRecord

_Arguments = msgspec.json.Decoder(dict[str, object])


class Accounts:
    """Follows the jobs of one run through the feed, in whatever order its items come."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.outcomes: dict[str, str] = {}
        self.attempts = 0
        self.waits_ms: list[int] = []
        self._latest: dict[str, tuple[int, int]] = {}
        self._order_of: dict[str, int] = {}
        self._task_of: dict[str, str] = {}

    def take(self, items: Iterable[FeedItem]) -> None:
        """Take in what the feed brought."""
        for item in items:
            if item.envelope is not None:
                arguments = _Arguments.decode(item.envelope.body)
                self._order_of[item.envelope.id] = int(str(arguments["order_id"]))
                self._task_of[item.envelope.id] = item.envelope.task
            for record in item.records:
                if record.event == FINISHED:
                    self._finish(record)

    def counts(self) -> Counter[str]:
        """Return the number of jobs per state; one without an outcome yet is `open`."""
        counts = Counter(self.outcomes.values())
        counts["open"] = len(self._order_of.keys() - self.outcomes.keys())
        return counts

    def parked(self) -> dict[int, str]:
        """Return the orders that have a parked job, with its reason."""
        return {
            self._order_of[job]: outcome
            for job, outcome in self.outcomes.items()
            if outcome.startswith("parked") and job in self._order_of
        }

    def wait_s(self, share: float) -> float:
        """Return the wait, in seconds, that `share` of the attempts stayed below."""
        waits = sorted(self.waits_ms)
        return waits[min(len(waits) - 1, int(len(waits) * share))] / 1000 if waits else 0.0

    def _finish(self, record: FeedRecord) -> None:
        self.attempts += 1
        if record.wait_ms is not None:
            self.waits_ms.append(record.wait_ms)
        run = (record.attempt, record.deliveries)
        if run < self._latest.get(record.job, (0, 0)):
            return
        self._latest[record.job] = run
        if record.outcome in ("retried", "handed_back"):
            self.outcomes.pop(record.job, None)
        else:
            detail = f" ({record.detail})" if record.detail else ""
            self.outcomes[record.job] = f"{record.outcome}{detail}"


def unaccounted(
    states: dict[int, str], mails: set[tuple[int, str]], parked: dict[int, str]
) -> dict[int, str]:
    """Return the orders that are in no proper end, with what is missing.

    A proper end is: shipped and its confirmation sent, declined and the customer told, or parked
    for a human.
    """
    missing: dict[int, str] = {}
    for order, state in states.items():
        if order in parked:
            continue
        if state == "placed":
            missing[order] = "neither shipped nor declined"
        elif state == "shipped" and (order, "confirmation") not in mails:
            missing[order] = "shipped without a mail"
        elif state == "declined" and (order, "declined") not in mails:
            missing[order] = "declined without a mail"
    return missing
