"""From settlements to one transaction, and back to the consumers that they belong to.

The jobs that take the freed places are claimed in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from taskyard.shared.adapters.sql.consumer import SqlConsumer
from taskyard.shared.adapters.sql.rows import Token, job_row, parked_row
from taskyard.shared.adapters.sql.transactions import Claim, Claimed, Ending, settle
from taskyard.shared.broker import SettleStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.sql.session import Session
    from taskyard.shared.broker import Delivery, Settlement

#: A fence that no hand-over has.
_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Settled:
    """What a transaction did: a status each, and what each refill brought."""

    statuses: list[SettleStatus]
    claimed: list[Claimed]


class SettleBatch:
    """A batch on its way through the thread."""

    def __init__(self, batch: Sequence[Settlement], owner: int, *, recording: bool) -> None:
        """Prepare the rows, on the loop, and reserve the refills.

        Args:
            batch: what ends, and how.
            owner: the handle's id; what another handle was given is lost to us.
            recording: whether records are kept.

        """
        self._owner = owner
        self._tokens = [token_of(settlement.delivery) for settlement in batch]
        self._endings = [
            _ending(settlement, token, owner, recording=recording)
            for settlement, token in zip(batch, self._tokens, strict=True)
        ]
        # A token that is being settled, here or in another call, frees its credit once.
        self._ours = [_start(token) for token in self._tokens]
        freed: Counter[SqlConsumer] = Counter()
        for token, is_ours in zip(self._tokens, self._ours, strict=True):
            if is_ours and isinstance(token.flow, SqlConsumer):
                freed[token.flow] += 1
        self._refills: list[tuple[SqlConsumer, Claim]] = []
        for flow, count in freed.items():
            if (claim := flow.refill(count)) is not None:
                self._refills.append((flow, claim))
        self.weight = len(batch) + sum(len(s.copies) for s in batch)

    def run(self, session: Session) -> Settled:
        """Carry it out, inside a write transaction."""
        statuses = settle(session, self._owner, self._endings)
        kept = Counter(
            token.flow
            for token, is_ours, status in zip(self._tokens, self._ours, statuses, strict=True)
            if is_ours and status is SettleStatus.UNDONE
        )
        claimed = [
            replace(claim, limit=claim.limit - kept[flow]).run(session)
            for flow, claim in self._refills
        ]
        return Settled(statuses, claimed)

    def finished(self, settled: Settled | None) -> None:
        """Give credit back and hand over what the refills brought; None: nothing was done."""
        freed: Counter[SqlConsumer] = Counter()
        undone = [SettleStatus.UNDONE] * len(self._tokens)
        statuses = settled.statuses if settled is not None else undone
        for token, is_ours, status in zip(self._tokens, self._ours, statuses, strict=True):
            if is_ours and status is SettleStatus.UNDONE:
                token.done = False
            elif is_ours and isinstance(token.flow, SqlConsumer):
                freed[token.flow] += 1
        for index, (flow, claim) in enumerate(self._refills):
            flow.refilled(claim, settled.claimed[index] if settled is not None else None)
        for flow, count in freed.items():
            flow.released(count)


def token_of(delivery: Delivery) -> Token:
    """Return what settles a delivery (TypeError for one of another adapter)."""
    if not isinstance(delivery.token, Token):
        msg = "this delivery is not one of an SQLite broker"
        raise TypeError(msg)
    return delivery.token


def _start(token: Token) -> bool:
    """Mark a token as settled, as far as credit is concerned; False when it is already."""
    if token.done:
        return False
    token.done = True
    return True


def _ending(settlement: Settlement, token: Token, owner: int, *, recording: bool) -> Ending:
    return Ending(
        seq=token.seq,
        fence=token.fence if token.owner == owner else _NOBODY,
        parked=token.flow is None,
        copies=[job_row(copy) for copy in settlement.copies],
        park=parked_row(settlement.park) if settlement.park is not None else None,
        record=settlement.record if recording else None,
        replies=settlement.replies,
    )
