"""A batch of publishes on its way: who is still to be answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from taskyard.shared.broker import PublishStatus, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.adapters.amqp.outgoing import Outgoing


class Flight:
    """A batch on its way: collects the receipts."""

    __slots__ = ("future", "items", "left", "receipts", "written")

    def __init__(self, count: int) -> None:
        """Begin with nothing written."""
        self.items: list[Outgoing] = []
        self.receipts: list[Receipt | None] = [None] * count
        self.left = count
        self.written = 0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resolve(self, index: int, receipt: Receipt) -> None:
        """Give one message its receipt; the first counts."""
        if self.receipts[index] is None:
            self.receipts[index] = receipt
            self.left -= 1
            if self.left == 0 and not self.future.done():
                self.future.set_result(None)

    @property
    def unanswered(self) -> bool:
        """Whether the fate of something that was written is open."""
        return None in self.receipts[: self.written]

    def end(self, unsent: Callable[[], str]) -> list[Receipt]:
        """Return all receipts; what is open was never written, or never answered.

        Args:
            unsent: says why something was not written; asked only where that is so.

        """
        if not self.left:
            return cast("list[Receipt]", self.receipts)
        late = "the broker did not confirm it in time; it may have been stored"
        why = unsent()
        items = self.items
        return [
            receipt
            or (
                Receipt(PublishStatus.TIMEOUT, items[index].message_id, late)
                if index < self.written
                else Receipt(PublishStatus.UNAVAILABLE, "", why)
            )
            for index, receipt in enumerate(self.receipts)
        ]
