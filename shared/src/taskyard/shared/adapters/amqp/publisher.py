"""Publishes with confirms: pipelined, mandatory, bounded in bytes and in time.

A publish is never lost silently: it is confirmed, returned, refused, or its end is unknown, and
its receipt says which. One timer and one future serve a whole batch.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.adapters.amqp.channel import ChannelClosed
from taskyard.shared.adapters.amqp.flight import Flight
from taskyard.shared.adapters.amqp.frames import (
    HEADER_OVERHEAD,
    content_frames,
    publish_frame,
    writes,
)
from taskyard.shared.adapters.amqp.known import KnownQueues
from taskyard.shared.adapters.amqp.outgoing import Maker, Outgoing, Raw
from taskyard.shared.broker import Connected, Lost, PublishStatus, Receipt
from taskyard.shared.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from taskyard.shared.adapters.amqp.channel import Channel
    from taskyard.shared.adapters.amqp.frames import Fragment
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.adapters.amqp.names import Names
    from taskyard.shared.broker import BrokerEvent
    from taskyard.shared.clock import Clock
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.errors import TaskyardError

#: Publishes written in one go before the loop gets its turn.
_CHUNK: Final = 256
#: What a publish costs beside its body, towards the cap.
_OVERHEAD_BYTES: Final = 512
_REOPEN_S: Final = 0.2
#: How long a channel that was refused something may take to answer the rest; and how often at most
#: it is changed for a new one.
_RENEW_S: Final = 0.5

CONFIRMED: Final = PublishStatus.CONFIRMED


class Publisher:
    """Publishes over one link, for any number of tasks."""

    def __init__(self, link: Link, names: Names, *, cap_bytes: int, clock: Clock) -> None:
        """Prepare a publisher; `start` begins to keep its channel.

        Args:
            link: that it publishes on.
            names: of the namespace.
            cap_bytes: most bytes written and not yet confirmed.
            clock: tells whether a job is due.

        """
        self._link = link
        self._names = names
        self._cap_bytes = cap_bytes
        self._clock = clock
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self.make = Maker(names, clock)
        self._next_tag = 1
        self._lowest = 1
        self._pending: dict[int, tuple[Flight, int, int]] = {}
        self._unconfirmed_bytes = 0
        self._returned: dict[str, str] = {}
        self._known = KnownQueues(names, clock)
        self._methods: dict[tuple[str, str], bytes] = {}
        self._changed: asyncio.Future[None] | None = None
        self._stopped = False
        self._retiring: Channel | None = None
        self.forbidden: set[str] = set()
        """Exchanges that this user may not publish to, as this connection has shown."""
        self._renewed_s = -_RENEW_S

    @property
    def unconfirmed_bytes(self) -> int:
        """How much is written and not yet confirmed."""
        return self._unconfirmed_bytes

    def start(self) -> None:
        """Open the channel now and after each reconnect, until `stop`."""
        self._unsubscribe = self._link.subscribe(self._on_event)
        self._keeper = asyncio.create_task(self._keep(), name="amqp publisher")

    async def stop(self) -> None:
        """End it; what is not confirmed by now ends as unknown."""
        self._stopped = True
        self._unsubscribe()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._channel = None
        self._lose("the connection is closed")

    # ------------------------------------------------------------ publishing

    async def publish(self, jobs: Sequence[Envelope], *, deadline_s: float) -> list[Receipt]:
        """Publish jobs to their queues, delayed ones through the ladder, in order."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        absent = await self._probe_missing(jobs, deadline_s)

        job, delayed = self.make.job, self.make.is_delayed
        if not absent:
            return await self._fly(len(jobs), lambda index: job(jobs[index]), until - loop.time())
        sent = [each for each in jobs if each.queue not in absent or not delayed(each)]
        receipts = iter(
            await self._fly(len(sent), lambda index: job(sent[index]), until - loop.time())
        )
        return [
            absent[each.queue] if each.queue in absent and delayed(each) else next(receipts)
            for each in jobs
        ]

    async def publish_raw(self, messages: Sequence[Raw], *, deadline_s: float) -> list[Receipt]:
        """Publish messages of any kind, in order."""
        return await self.send(
            [self.make.raw(message) for message in messages], deadline_s=deadline_s
        )

    async def send(
        self, items: Sequence[Outgoing], *, deadline_s: float, patient: bool = False
    ) -> list[Receipt]:
        """Publish what `make` made ready, in order.

        Args:
            items: made by `make`.
            deadline_s: how long it may take, in seconds.
            patient: whether the time of an alarm does not count for what was written before it.
                The broker reads that as soon as the alarm ends: published again, it would be
                there twice.

        """
        return await self._fly(len(items), items.__getitem__, deadline_s, patient=patient)

    # ------------------------------------------------------------ is the queue there?

    async def _probe_missing(
        self, jobs: Iterable[Envelope], deadline_s: float
    ) -> dict[str, Receipt]:
        """Ask about the queues of delayed jobs, which the ladder would not return.

        Returns:
            the receipt of such a job, for each queue that is not there.

        """
        now_s = self._clock.monotonic_s()
        asked = {
            job.queue
            for job in jobs
            if job.not_before_ms is not None
            and self._known.doubtful(job.queue, now_s)
            and self.make.is_delayed(job)
        }
        if not asked:
            return {}
        return await self._known.ask(asked, partial(self.publish_raw, deadline_s=deadline_s))

    # ------------------------------------------------------------ a batch's flight

    async def _fly(
        self,
        count: int,
        make: Callable[[int], Outgoing],
        deadline_s: float,
        *,
        patient: bool = False,
    ) -> list[Receipt]:
        if count == 0:
            return []
        flight = Flight(count)
        try:
            async with asyncio.timeout(max(deadline_s, 0.0)):
                made = 0
                while flight.written < count:
                    while made < min(flight.written + _CHUNK, count):
                        flight.items.append(make(made))
                        made += 1
                    await self._room(len(flight.items[flight.written].body))
                    self._write(flight, made)
                    if flight.written < count:
                        await asyncio.sleep(0)  # confirms and other batches have their turn
                await flight.future
        except (TimeoutError, Unavailable):
            if patient and self._link.blocked:
                await self._sit_out(flight, deadline_s)
        return flight.end(self._unsent)  # what is open gets its receipt now

    async def _sit_out(self, flight: Flight, deadline_s: float) -> None:
        """Wait for what was written until the alarm is over, and then no longer than usual."""
        while self._link.blocked and flight.unanswered:
            await self._change()
        try:
            async with asyncio.timeout(deadline_s):
                while flight.unanswered:
                    await self._change()
        except TimeoutError:
            pass

    async def _room(self, size: int) -> None:
        """Wait until something may be written."""
        while (
            self._channel is None
            or self._link.blocked
            or (
                self._unconfirmed_bytes
                and self._unconfirmed_bytes + size + _OVERHEAD_BYTES > self._cap_bytes
            )
        ):
            if self._stopped:
                raise Unavailable("the connection is closed")
            await self._change()

    async def _change(self) -> None:
        """Wait until something may have changed: confirms, alarms, the channel."""
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _write(self, flight: Flight, upto: int) -> None:
        """Write a batch's next publishes, as many as there is room for."""
        channel = self._channel
        if channel is None:
            return
        fragments: list[Fragment] = []
        largest = 0
        number, body_max = channel.number, channel.connection.body_max
        unconfirmed, cap = self._unconfirmed_bytes, self._cap_bytes
        index, items = flight.written, flight.items
        while index < upto:
            item = items[index]
            size = len(item.body) + _OVERHEAD_BYTES
            if unconfirmed and unconfirmed + size > cap:
                break
            if item.problem or (method := self._method(number, item)) is None:
                flight.resolve(index, Receipt(PublishStatus.REJECTED, "", item.problem))
            else:
                fragments.append(method)
                fragments += content_frames(number, item.properties, item.body, body_max)
                self._pending[self._next_tag] = (flight, index, size)
                self._next_tag += 1
                unconfirmed += size
                largest = max(largest, size)
            index += 1
        flight.written = index
        self._unconfirmed_bytes = unconfirmed
        for data in writes(fragments, largest):
            channel.connection.emit(data)

    def _method(self, number: int, item: Outgoing) -> bytes | None:
        route = (item.exchange, item.routing_key)
        method = self._methods.get(route)
        if method is None:
            try:
                method = publish_frame(number, item.exchange, item.routing_key)
            except ValueError as error:
                item.problem = f"the job cannot be addressed: {error}"
                return None
            if len(self._methods) > 1024:  # each delay has a key of its own
                self._methods.clear()
            self._methods[route] = method
        return method

    def _unsent(self) -> str:
        if not self._link.connected:
            return f"no connection to {self._link.target}: {self._link.reason}; nothing was sent"
        if self._link.blocked:
            return f"{self._link.target} takes no publishes now (alarm); nothing was sent"
        return "earlier publishes were not confirmed in time to make room; nothing was sent"

    # ------------------------------------------------------------ what the broker says

    def _on_confirm(self, tag: int, multiple: bool, accepted: bool) -> None:
        if multiple:
            for each in range(self._lowest, tag + 1):
                entry = self._pending.pop(each, None)
                if entry is not None:
                    self._confirmed(entry, accepted)
            self._lowest = tag + 1
        else:
            entry = self._pending.pop(tag, None)
            if entry is not None:
                self._confirmed(entry, accepted)
            if tag == self._lowest:
                self._lowest = tag + 1
        if not accepted:
            self._renew()
        if self._retiring is not None and not self._pending:
            self._retiring.discard()
        self._wake()

    def _renew(self) -> None:
        """Change to a new channel, as soon as what is on its way is answered.

        RabbitMQ 3.x goes on to refuse what a channel publishes to a quorum queue whose leader was
        dead at its first publish there, until that node is back; a new one finds the new leader.
        """
        channel, now_s = self._channel, self._clock.monotonic_s()
        if channel is None or now_s < self._renewed_s + _RENEW_S:
            return
        self._renewed_s = now_s
        self._channel, self._retiring = None, channel
        asyncio.get_running_loop().call_later(_RENEW_S, channel.discard)

    def _confirmed(self, entry: tuple[Flight, int, int], accepted: bool) -> None:
        flight, index, size = entry
        self._unconfirmed_bytes -= size
        item = flight.items[index]
        if self._returned and (text := self._returned.pop(item.message_id, None)) is not None:
            receipt = Receipt(PublishStatus.UNROUTABLE, item.message_id, self._nowhere(item, text))
        elif accepted:
            receipt = Receipt(CONFIRMED, item.message_id)
        else:
            text = f"the broker refused it for queue {item.queue!r}; nothing was stored"
            receipt = Receipt(PublishStatus.REJECTED, item.message_id, text)
        flight.resolve(index, receipt)

    def _on_return(self, _: object, method: Any, properties: Any, __: bytes) -> None:
        self._returned[properties.message_id] = method.reply_text

    def _nowhere(self, item: Outgoing, text: str) -> str:
        where = f"namespace {self._names.prefix!r} at {self._link.target}"
        if item.exchange in {self._names.tasks, self._names.known, self._names.parked}:
            self._known.forget(item.queue)
            return f"there is no queue {item.queue!r} in {where}; nothing was stored"
        return f"exchange {item.exchange!r} in {where} leads {item.queue!r} nowhere ({text})"

    # ------------------------------------------------------------ the channel

    async def _keep(self) -> None:
        while True:
            try:
                channel = await self._link.channel()
                channel.raw.add_on_return_callback(self._on_return)
                await channel.confirm(self._on_confirm)
            except (Unavailable, ChannelClosed):
                await asyncio.sleep(_REOPEN_S)
                continue
            if not channel.is_open:
                continue
            self._next_tag = self._lowest = 1
            self._methods.clear()
            self.make.room_bytes = channel.connection.body_max - HEADER_OVERHEAD
            channel.on_close.append(self._on_close)
            self._channel = channel
            self._wake()
            await channel.wait_closed()

    def _on_close(self, reason: TaskyardError) -> None:
        self._channel = self._retiring = None
        if isinstance(reason, ChannelClosed):
            self._refused(reason)
        self._lose(str(reason))

    def _refused(self, reason: ChannelClosed) -> None:
        """Give those their answer whose exchange was refused: of them nothing was stored."""
        where = f"namespace {self._names.prefix!r} at {self._link.target}"
        if reason.code == 404:
            status = PublishStatus.UNROUTABLE
            text = f"{where} is not set up (run `taskyard broker apply`): {reason}"
        else:
            status, text = PublishStatus.REJECTED, f"{where} refuses it: {reason}"
            named = {flight.items[index].exchange for flight, index, _ in self._pending.values()}
            self.forbidden |= {exchange for exchange in named if f"'{exchange}'" in reason.text}
        for flight, index, _ in self._pending.values():
            item = flight.items[index]
            if f"'{item.exchange}'" in reason.text:
                flight.resolve(index, Receipt(status, item.message_id, text))

    def _lose(self, reason: str) -> None:
        text = f"lost before the broker confirmed it, and it may have been stored: {reason}"
        pending, self._pending = self._pending, {}
        self._unconfirmed_bytes = 0
        self._returned.clear()
        for flight, index, _ in pending.values():
            message_id = flight.items[index].message_id
            flight.resolve(index, Receipt(PublishStatus.TIMEOUT, message_id, text))
        self._wake()

    def _on_event(self, event: BrokerEvent) -> None:
        if isinstance(event, Connected | Lost):
            self._known.clear()
            self.forbidden.clear()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)
