"""The flow of deliveries of one queue: opened and shut as a gate, and open again by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from taskyard.shared.errors import Unavailable, UnknownQueue
from taskyard.shared.logs import get_logger
from taskyard.workers.commit import EXTRA_CREDIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.shared.broker import Broker, Consumer, Delivery

_log = get_logger(__name__)

#: Seconds between two tries to consume.
_RETRY_S: Final = 0.5
#: Credit is changed by at least so much, so that an alarm does not mean a request per job.
_STEP: Final = 32


class Intake:
    """Consumes while it is open, and hands each batch on.

    Attributes:
        problem: why it does not consume though it is open, in words.
        absent_since_s: since when it should consume, the broker is reachable, and it does not.

    """

    def __init__(
        self,
        queue: str,
        broker: Broker,
        *,
        credit: int,
        ttr_s: float,
        on_batch: Callable[[Sequence[Delivery]], None],
        on_rest: Callable[[Sequence[Delivery]], None],
    ) -> None:
        """Start shut.

        Args:
            queue: its name.
            broker: hands the deliveries over.
            credit: most deliveries unsettled at once.
            ttr_s: the longest time to run of its tasks, in seconds.
            on_batch: takes what has arrived; must not block.
            on_rest: takes what has arrived and was not taken when the gate shut.

        """
        self._queue = queue
        self._broker = broker
        self._credit = self._given = credit
        self._held = self._lent = 0
        self._ttr_s = ttr_s
        self._on_batch = on_batch
        self._on_rest = on_rest
        self._consumer: Consumer | None = None
        self._finishing = False
        self._opened = asyncio.Event()
        self._shut = asyncio.Event()
        self._shut.set()
        self._renewal = asyncio.Event()
        self._recrediting: asyncio.Task[None] | None = None
        self.problem = ""
        self.absent_since_s: float | None = None

    @property
    def opened(self) -> bool:
        """Whether it is meant to consume."""
        return self._opened.is_set() and not self._finishing

    @property
    def present(self) -> bool:
        """Whether the broker knows its consumer now."""
        return self._consumer is not None and self._consumer.present

    @property
    def absence(self) -> str:
        """Why the broker does not know its consumer, in words; empty where that is not known."""
        consumer = self._consumer
        return consumer.problem if consumer is not None else ""

    def open(self) -> None:
        """Consume."""
        self._shut.clear()
        self._opened.set()

    def shut(self) -> None:
        """Stop consuming until it is opened again."""
        self._opened.clear()
        self._shut.set()

    def finish(self) -> None:
        """Stop consuming for good; `run` returns."""
        self._finishing = True
        self._shut.set()
        self._opened.set()

    def renew(self) -> None:
        """Open another consumer in place of the present one, which keeps what it has given out."""
        self._renewal.set()

    def set_credit(self, credit: int) -> None:
        """Have at most `credit` deliveries unsettled at once, what is held and lent left aside."""
        self._credit = credit
        self._change_credit()

    def hold(self, held: int) -> None:
        """Make up for `held` deliveries that wait for the end of an alarm."""
        # Coarser as it grows: each change is a consumer more on RabbitMQ, and what is given beyond
        # `held` is fetched before its slot is free.
        step = max(_STEP, 1 << held.bit_length() >> 2)
        extra = min(-(-held // step) * step, EXTRA_CREDIT)
        if extra != self._held:
            self._held = extra
            self._change_credit()

    def lend(self, away: int) -> None:
        """Make up for `away` deliveries whose attempts wait for other jobs."""
        # In powers of two, and given back late: see `hold`.
        if away > self._lent:
            self._lent = 1 << (away - 1).bit_length()
        elif away <= self._lent // 4:
            self._lent = away
        else:
            return
        self._change_credit()

    @property
    def _wanted(self) -> int:
        return self._credit + self._held + self._lent

    def _change_credit(self) -> None:
        if self._recrediting is None or self._recrediting.done():
            self._recrediting = asyncio.get_running_loop().create_task(
                self._recredit(), name=f"credit {self._queue}"
            )

    def note_absence(self, now_s: float, *, connected: bool) -> None:
        """Keep since when it is missing that ought to be there; called from time to time."""
        if not connected or not self.opened or self.present:
            self.absent_since_s = None
        elif self.absent_since_s is None:
            self.absent_since_s = now_s

    async def run(self) -> None:
        """Consume whenever open, until finished."""
        while True:
            await self._opened.wait()
            if self._finishing:
                return
            self._consumer = await self._open_consumer()
            if self._consumer is not None:
                if self._given != self._wanted:  # it has changed while the consumer was opened
                    self._change_credit()
                await self._flow(self._consumer)

    async def _open_consumer(self) -> Consumer | None:
        while not self._shut.is_set():
            self._given = self._wanted
            try:
                consumer = await self._broker.consume(
                    self._queue, credit=self._given, ttr_s=self._ttr_s
                )
            except UnknownQueue:
                self.problem = f"queue {self._queue} does not exist on the broker any more"
            except Unavailable as error:
                self.problem = f"queue {self._queue} cannot be consumed: {error}"
            else:
                self.problem = ""
                return consumer
            await self._pause(_RETRY_S)
        return None

    async def _flow(self, consumer: Consumer) -> None:
        self._renewal.clear()
        pump = asyncio.create_task(self._pump(consumer), name=f"take {self._queue}")
        shut = asyncio.create_task(self._shut.wait(), name=f"gate {self._queue}")
        renewal = asyncio.create_task(self._renewal.wait(), name=f"renewal {self._queue}")
        try:
            await asyncio.wait({pump, shut, renewal}, return_when=asyncio.FIRST_COMPLETED)
            rest = await self._stop(consumer)
            await pump
            self._on_rest(rest)
        finally:
            for task in (pump, shut, renewal):
                task.cancel()
            self._consumer = None
        if not self._shut.is_set() and not self._renewal.is_set():
            _log.warning("a consumer ended by itself; it is opened again", queue=self._queue)
            await self._pause(_RETRY_S)

    async def _stop(self, consumer: Consumer) -> Sequence[Delivery]:
        try:
            return await consumer.stop()
        except Unavailable:
            return ()  # the connection is gone, and what had arrived went back with it

    async def _pump(self, consumer: Consumer) -> None:
        on_batch = self._on_batch
        while batch := await consumer.take():
            on_batch(batch)

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._shut.wait()
        except TimeoutError:
            return

    async def _recredit(self) -> None:
        """Bring the consumer's credit to what it should be, one request at a time."""
        while (consumer := self._consumer) is not None and self._given != self._wanted:
            self._given = self._wanted
            try:
                await consumer.set_credit(self._given)
            except Unavailable:
                return  # the connection is gone; the next consumer is opened with the new credit
