"""Settling on a memory broker: publish, "confirm", acknowledge, each a step of its own.

A real broker is across a network, so a process can die, or lose its connection, between any two of
these steps. Here it can be made to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from taskyard.shared.adapters.memory.lane import Handover
from taskyard.shared.broker import SettleStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.adapters.memory.session import Session
    from taskyard.shared.adapters.memory.state import MemoryState
    from taskyard.shared.broker import Delivery, Settlement


def handover_of(delivery: Delivery) -> Handover:
    """Return what a delivery of this adapter carries.

    Raises:
        TypeError: it belongs to another adapter.

    """
    if not isinstance(delivery.token, Handover):
        msg = "this delivery is not one of a memory broker"
        raise TypeError(msg)
    return delivery.token


class Settler:
    """Settles batches for one handle."""

    def __init__(
        self, state: MemoryState, session: Callable[[], Session], step: Callable[[str], None]
    ) -> None:
        """Settle for the handle whose present session `session` returns.

        Args:
            state: shared by all handles.
            session: deliveries of any other are lost.
            step: called between any two steps, with the name of the one that is done.

        """
        self._state = state
        self._session = session
        self._step = step

    async def settle(self, batch: Sequence[Settlement], *, deadline_s: float) -> list[SettleStatus]:
        """Settle a batch; see the port."""
        done: dict[int, SettleStatus] = {}
        writing = [settlement for settlement in batch if self._writes(settlement)]
        if writing and self._state.blocked:
            # Under an alarm the plain ones go on at once; the others wait for its end.
            plain = [settlement for settlement in batch if not self._writes(settlement)]
            await self._commit(plain, done)
            if await self._state.wait_unblocked(deadline_s):
                await self._commit(writing, done)
        else:
            await self._commit(batch, done)
        return [done.get(id(settlement), SettleStatus.UNDONE) for settlement in batch]

    def _writes(self, settlement: Settlement) -> bool:
        if settlement.publishes or settlement.replies:
            return True
        return settlement.record is not None and self._state.recording

    async def _commit(self, batch: Sequence[Settlement], done: dict[int, SettleStatus]) -> None:
        self._step("settle:begin")
        going = [settlement for settlement in batch if self._may_go(settlement, done)]
        for settlement in going:
            self._write(settlement)
        self._record(going)
        for settlement in going:
            self._reply(settlement)
        await asyncio.sleep(0)
        self._step("settle:confirmed")
        for settlement in going:
            done[id(settlement)] = self._acknowledge(settlement)
            self._step("settle:acknowledged")

    def _may_go(self, settlement: Settlement, done: dict[int, SettleStatus]) -> bool:
        handover = handover_of(settlement.delivery)
        if not handover.live or handover.session is not self._session():
            done[id(settlement)] = SettleStatus.LOST
            return False
        # All or nothing: a copy that no queue takes must not leave its siblings behind.
        return all(copy.queue in self._state.lanes for copy in settlement.copies)

    def _write(self, settlement: Settlement) -> None:
        for copy in settlement.copies:
            with self._state.lock:
                self._state.store(copy)
            self._step("settle:copied")
        if settlement.park is not None:
            with self._state.lock:
                self._state.park(settlement.park)
            self._step("settle:parked")

    def _record(self, going: Sequence[Settlement]) -> None:
        records = [settlement.record for settlement in going if settlement.record is not None]
        if records and self._state.feed is not None:
            with self._state.lock:
                self._state.feed.write(records=records)
            self._step("settle:recorded")

    def _reply(self, settlement: Settlement) -> None:
        for address, body in settlement.replies:
            with self._state.lock:
                inbox = self._state.inboxes.get(address)
            if inbox is not None:
                inbox.mail.put(body)
            self._step("settle:replied")

    def _acknowledge(self, settlement: Settlement) -> SettleStatus:
        handover = handover_of(settlement.delivery)
        with self._state.lock:
            if not handover.live:
                return SettleStatus.LOST
            self._state.finish(handover)
            handover.lane.pump()
        return SettleStatus.SETTLED
