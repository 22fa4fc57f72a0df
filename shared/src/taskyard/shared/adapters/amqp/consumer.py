"""One queue's deliveries, over reconnects, cancels and deletions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.amqp import wire
from taskyard.shared.adapters.amqp.channel import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    Channel,
    ChannelClosed,
)
from taskyard.shared.adapters.amqp.credit import Credit
from taskyard.shared.adapters.amqp.intake import Intake
from taskyard.shared.errors import ConfigurationError, Unavailable, UnknownQueue
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.amqp.frames import Message
    from taskyard.shared.adapters.amqp.intake import Grant, Token
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.broker import Delivery
    from taskyard.shared.clock import Clock
    from taskyard.shared.errors import TaskyardError

_log = get_logger(__name__)

#: From here on quorum queues count failed hand-overs exactly, and take a patience per consumer.
EXACT_COUNTS: Final = (4, 3)
#: What a time to run leaves of the patience of brokers without it, for all that is not the run.
PATIENCE_MARGIN_S: Final = 60.0
#: Where it is ours to choose: the worker's own limits are tighter, and `touch` may exceed a TTR.
_LONG_PATIENCE_S: Final = 24 * 3600.0
_RETRY_S: Final = (0.1, 0.5, 1.0, 2.0)
#: Consuming a quorum queue while it is being deleted ends the whole connection (541).
_AFTER_CANCEL_S: Final = 1.0


def longest_ttr_s(timeout_s: float) -> float:
    """Return the longest time to run that a broker of this patience bears."""
    return timeout_s - min(PATIENCE_MARGIN_S, timeout_s / 2)


class AmqpConsumer:
    """A flow of deliveries from one queue: see the port's `Consumer`."""

    def __init__(
        self,
        link: Link,
        names: Names,
        queue: str,
        *,
        credit: int,
        ttr_s: float,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        """Prepare it; `start` opens it.

        Args:
            link: to consume on.
            names: of the namespace.
            queue: to consume.
            credit: most unsettled deliveries.
            ttr_s: the longest attempt, which the broker must be patient for.
            timeout_s: the broker's own patience, where it cannot be asked for more.
            clock: for the instants of arrival.

        """
        self._link = link
        self._names = names
        self._queue = queue
        self._wanted = credit
        self._patience_s = max(_LONG_PATIENCE_S, ttr_s + 2 * PATIENCE_MARGIN_S)
        self._timeout_s = timeout_s
        self._clock = clock
        self._channel: Channel | None = None
        self._intake: Intake | None = None
        self._credit: Credit | None = None
        self._counted = False
        self._present = False
        self._stopped = False
        self._ended = False
        self._was_cancelled = False
        self._problem = ""
        self._arrived: list[tuple[Message, Token]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._regrant: asyncio.Task[None] | None = None

    @property
    def present(self) -> bool:
        """Whether the broker knows this consumer now."""
        return self._present

    @property
    def problem(self) -> str:
        """See the port."""
        return "" if self._present else self._problem

    async def start(self) -> None:
        """Open the flow and keep it open.

        Raises:
            UnknownQueue: there is no such queue.
            ConfigurationError: the broker does not let this user consume it.
            Unavailable: there is no connection.

        """
        try:
            await self._open()
        except ChannelClosed as error:
            where = f"namespace {self._names.prefix!r} at {self._link.target}"
            if error.code == NOT_FOUND:
                raise UnknownQueue(f"there is no queue {self._queue!r} in {where}") from error
            if error.code == ACCESS_REFUSED:
                raise ConfigurationError(f"{where}: {error}") from error
            raise Unavailable(f"{where}: {error}") from error
        self._keeper = asyncio.create_task(self._keep(), name=f"amqp consumer {self._queue}")

    async def take(self) -> Sequence[Delivery]:
        """Wait for deliveries and return all that have arrived; empty once it is stopped."""
        while not self._arrived:
            if self._stopped:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._drain()

    async def set_credit(self, credit: int) -> None:
        """Change how many deliveries may be unsettled at once; 0 lets none in."""
        if self._stopped:
            return  # nobody takes from it any more: what came would stay there, unsettled
        self._wanted = credit
        await self._adjust()

    async def stop(self) -> Sequence[Delivery]:
        """End the flow and return what has arrived and was never taken."""
        self._stopped = True
        self._wanted = 0
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._adjust()
        if self._regrant is not None:
            self._regrant.cancel()
        self._present = False
        self._wake()
        unstarted = self._drain()
        # Not before: what is on its way while we cancel would come again, and be charged.
        self._ended = True
        self._close_when_settled()
        return unstarted

    # ------------------------------------------------------------ deliveries

    def _take(self, intake: Intake, grant: Grant, message: Message) -> None:
        if self._intake is not intake or self._ended:
            return  # it goes back, uncharged, when the channel closes
        token = intake.arrived(message.tag, grant=grant, at_ms=self._clock.now_ms())
        self._arrived.append((message, token))
        if self._waiter is not None:
            self._wake()

    def _drain(self) -> list[Delivery]:
        arrived, self._arrived = self._arrived, []
        queue, counted = self._queue, self._counted
        return [
            wire.decode(
                message.properties,
                message.body,
                queue=queue,
                redelivered=message.redelivered,
                counted=counted,
                token=token,
            )
            for message, token in arrived
        ]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ------------------------------------------------------------ keeping it open

    async def _keep(self) -> None:
        failures = 0
        while True:
            if self._channel is not None:
                await self._channel.wait_closed()
            if self._was_cancelled:
                self._was_cancelled = False
                await asyncio.sleep(_AFTER_CANCEL_S)
            try:
                await self._open()
                failures = 0
            except (ChannelClosed, Unavailable) as error:
                told, self._problem = self._problem, self._why(error)
                if failures == 0 or self._problem != told:
                    _log.warning(
                        "queue cannot be consumed", queue=self._queue, reason=self._problem
                    )
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1

    def _why(self, error: ChannelClosed | Unavailable) -> str:
        if isinstance(error, ChannelClosed) and error.code == NOT_FOUND:
            return (
                f"{self._names.work_queue(self._queue)} does not exist at {self._link.target}: "
                "run `taskyard broker apply`; it is consumed as soon as it is there"
            )
        return str(error)

    async def _open(self) -> None:
        """Consume on a new channel, with the broker's patience set where that is possible."""
        exact = False
        await self._link.wait_connected(deadline_s=10.0)
        if self._link.server_version >= EXACT_COUNTS:
            try:
                await self._consume(exact=True)
                exact = True
            except ChannelClosed as error:
                if error.code != PRECONDITION_FAILED:
                    raise
        if not exact:  # a classic queue refuses to be told how patient it is to be
            await self._consume(exact=False)
        self._present = True
        self._problem = ""

    async def _consume(self, *, exact: bool) -> None:
        channel = await self._link.channel()
        if exact:
            patience_ms: int | None = round(self._patience_s * 1000)
        elif self._link.server_version >= EXACT_COUNTS:
            patience_ms = None  # classic queues of this version wait for ever
        else:
            patience_ms = round(self._timeout_s * 1000)
        intake = Intake(channel, patience_ms=patience_ms)
        intake.on_settled = self._settled
        self._channel, self._intake, self._counted = channel, intake, exact
        self._credit = credit = Credit(
            channel,
            self._names.work_queue(self._queue),
            arguments={"x-consumer-timeout": round(self._patience_s * 1000)} if exact else {},
            take=partial(self._take, intake),
            on_cancel=lambda: self._cancelled(channel),
        )
        channel.on_close.append(lambda reason: self._gone(channel, reason))
        if not channel.is_open:
            raise channel.reason or Unavailable("the channel is closed")
        try:
            await credit.adjust(lambda: self._wanted)
        except BaseException:
            channel.discard()
            raise

    def _gone(self, channel: Channel, reason: TaskyardError) -> None:
        if self._channel is channel:
            if self._present and isinstance(reason, ChannelClosed):
                _log.warning(
                    "the broker ended a channel; its jobs come again",
                    queue=self._queue,
                    reason=str(reason),
                )
            self._present = False
            self._arrived.clear()  # the broker gives them to others
            self._credit = None

    # ------------------------------------------------------------ credit

    async def _adjust(self) -> None:
        """Bring the credit granted to the broker to what is wanted."""
        if self._credit is None:
            return
        try:
            await self._credit.adjust(lambda: self._wanted)
        except (ChannelClosed, Unavailable):
            return  # it is consumed anew, with what is wanted then

    def _cancelled(self, channel: Channel) -> None:
        """The broker ended it: what is unsettled on the channel is lost, so begin anew."""
        _log.warning("the broker cancelled a consumer", queue=self._queue)
        self._present = False
        self._was_cancelled = True
        channel.discard()

    def _settled(self) -> None:
        if self._stopped:
            if self._ended:
                self._close_when_settled()
        elif self._credit is not None and self._credit.owed and self._regrant is None:
            self._regrant = asyncio.create_task(self._adjust(), name="amqp credit")
            self._regrant.add_done_callback(self._regranted)

    def _regranted(self, _: asyncio.Task[None]) -> None:
        self._regrant = None

    def _close_when_settled(self) -> None:
        if self._channel is not None and self._intake is not None and not self._intake.unsettled:
            self._channel.discard()

    async def abandon(self) -> None:
        """Stop keeping it, without a word to the broker."""
        self._stopped = True
        self._present = False
        self._arrived.clear()
        for task in (self._keeper, self._regrant):
            if task is not None:
                task.cancel()
        self._wake()
