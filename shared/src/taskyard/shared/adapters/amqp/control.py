"""The control log: a stream that everyone replays, written through an exchange of its name.

Records travel in arrays, because a stream is read chunk by chunk and each message costs its own
share: 100 000 records are some 400 messages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from taskyard.shared.adapters.amqp.channel import NOT_FOUND, Channel, ChannelClosed
from taskyard.shared.adapters.amqp.fields import properties
from taskyard.shared.adapters.amqp.outgoing import Raw
from taskyard.shared.adapters.amqp.publisher import CONFIRMED
from taskyard.shared.broker import ControlBatch, PublishStatus
from taskyard.shared.control import (
    GENESIS,
    ControlRecord,
    ControlUnavailable,
    decode_records,
    encode_arrays,
    genesis,
)
from taskyard.shared.envelope import JSON
from taskyard.shared.errors import Unavailable
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from taskyard.shared.adapters.amqp.core import Core
    from taskyard.shared.adapters.amqp.frames import Message
    from taskyard.shared.adapters.amqp.link import Link
    from taskyard.shared.broker import Receipt

_log = get_logger(__name__)

#: Unacknowledged messages of a reader; a stream sends whole chunks anyway.
_CREDIT: Final = 4000
#: Enough for the whole of the largest chunk.
_CHUNK_CREDIT: Final = 65535
#: How long a log that holds anything takes to show its last chunk, at the very most.
_SHOWN_S: Final = 2.0
_GENESIS_S: Final = 10.0
_OFFSET: Final = "x-stream-offset"


async def append_control(
    core: Core, records: Sequence[ControlRecord], *, deadline_s: float
) -> None:
    """Write records, in order, many at once; they are durable when this returns.

    Raises:
        ControlUnavailable: they are not, or not known to be; writing them again is harmless.

    """
    own = core.names.control
    messages = [
        Raw(own, "", properties(content_type=JSON), body) for body in encode_arrays(records)
    ]
    for receipt in await core.publisher.publish_raw(messages, deadline_s=deadline_s):
        if receipt.status is not CONFIRMED:
            raise ControlUnavailable(_unwritten(core, receipt))


def _unwritten(core: Core, receipt: Receipt) -> str:
    where = f"the control log {core.names.control} at {core.publish_link.target}"
    if receipt.status is PublishStatus.UNROUTABLE:
        return f"{where} does not exist: run `taskyard broker apply`; nothing was recorded"
    if receipt.status is PublishStatus.TIMEOUT:
        return f"{where} did not confirm in time, the record may be there: {receipt.detail}"
    return f"{where} took nothing: {receipt.detail}"


async def begin_log(core: Core, *, is_new: bool) -> None:
    """Write the log's first record, so that it is never empty.

    Args:
        core: of the broker.
        is_new: whether the log was just created; otherwise it is looked at first.

    """
    if not is_new:
        try:
            if await _last_offset(core, await core.reader()) is not None:
                return
        except ControlUnavailable:
            return  # there is none, or it cannot be read now: nothing to begin
    await append_control(core, [genesis(core.clock.now_ms())], deadline_s=_GENESIS_S)


async def follow_control(core: Core, after: int | None) -> AsyncGenerator[ControlBatch]:
    """Yield the log behind an offset, then as it grows; see the port.

    An offset that retention has forgotten continues at the oldest one left.

    Args:
        core: of the broker.
        after: the last offset seen; None begins at the start.

    Raises:
        ControlUnavailable: the log is not there or not readable now, or the connection is lost.

    """
    reader = _Reader(core)
    try:
        goal = await reader.open(after)
        position, anew = reader.position, reader.anew
        if goal is None or goal <= position:
            yield ControlBatch(records=(), position=position, caught_up=True, anew=anew)
            anew = False
        while messages := await reader.take():
            records: list[ControlRecord] = []
            for offset, body in messages:
                position = offset
                records += decode_records(body)
                if offset == 0:
                    core.log_begun_ms = _begun_ms(records)
            yield ControlBatch(
                records=tuple(records),
                position=position,
                caught_up=goal is None or position >= goal,
                anew=anew,
            )
            anew = False
            reader.ack()
    finally:
        await reader.close()


class _Reader:
    """One consumer of the stream, on a connection of its own.

    For some time after its start a broker answers a reader of a stream with an internal error,
    which ends the connection; jobs must not go with it.

    Attributes:
        position: the offset behind which it reads; -1 for all.
        anew: the log is another one than was read before, and is read from its start.

    """

    def __init__(self, core: Core) -> None:
        """Prepare to read."""
        self.position = -1
        self.anew = False
        self._core = core
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._arrived: list[tuple[int, bytes]] = []
        self._tag = 0
        self._news = asyncio.Event()
        self._ended: str | None = None

    async def open(self, after: int | None) -> int | None:
        """Begin behind an offset; return the last one there is now, if there is any.

        Raises:
            ControlUnavailable: that is not possible now.

        """
        try:
            self._link = link = await self._core.link("control")
        except Unavailable as error:
            raise _unreadable(self._core, error) from error
        goal = await _last_offset(self._core, link)
        if after is not None and (
            goal is None or goal < after or await _is_another(self._core, link)
        ):
            _log.warning("the control log was made anew; it is read from its start", was=after)
            after, self.anew = None, True
        self.position = -1 if after is None else after
        self._channel = await _open_stream(self._core, link, _CREDIT)
        self._channel.on_close.append(lambda reason: self._end(str(reason)))
        try:
            await self._channel.consume(
                self._core.names.control,
                self._on_message,
                on_cancel=lambda: self._end("the broker ended the consumer"),
                arguments={_OFFSET: "first" if after is None else after + 1},
            )
        except (ChannelClosed, Unavailable) as error:
            raise _unreadable(self._core, error) from error
        return goal

    async def take(self) -> list[tuple[int, bytes]]:
        """Wait for messages and return all that have arrived, with their offsets.

        Empty once the broker is closed here; ControlUnavailable when the log is lost.
        """
        while not self._arrived:
            if self._ended is not None:
                if self._link is None or self._link.closed:
                    return []
                raise ControlUnavailable(f"the control log is out of reach: {self._ended}")
            self._news.clear()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    def ack(self) -> None:
        """Let the broker send more."""
        if self._channel is not None and self._channel.is_open and self._tag:
            self._channel.raw.basic_ack(self._tag, multiple=True)
            self._tag = 0

    async def close(self) -> None:
        """End it."""
        if self._link is not None:
            await self._core.drop(self._link)

    def _on_message(self, message: Message) -> None:
        self._tag = message.tag
        offset = _offset_of(message)
        if offset > self.position:  # a reader is sent the whole chunk around its offset
            self._arrived.append((offset, message.body))
            self._news.set()

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._news.set()


async def _last_offset(core: Core, link: Link) -> int | None:
    """Return the offset of the last record that is surely in the log now; None if it is empty.

    `last` attaches at the last chunk, whose first record comes first. A chunk is sent in one go,
    so an answer to a question asked after the first record comes behind the chunk's last.
    """
    chunk = await _chunk(core, link, "last", credit=_CHUNK_CREDIT)
    return max(map(_offset_of, chunk), default=None)


async def _is_another(core: Core, link: Link) -> bool:
    """Tell whether the log is not the one that was read before, though it is as long.

    A log begins with the instant at which it was made; one that retention has shortened is old.
    """
    if core.log_begun_ms is None:
        return False
    for message in await _chunk(core, link, "first", credit=1):
        if _offset_of(message) == 0:
            return _begun_ms(decode_records(message.body)) != core.log_begun_ms
    return False


def _begun_ms(records: Sequence[ControlRecord]) -> int | None:
    return next((record.at for record in records if record.op == GENESIS), None)


async def _chunk(core: Core, link: Link, where: str, *, credit: int) -> list[Message]:
    """Return the messages of the first or the last chunk; none if the log is empty."""
    channel = await _open_stream(core, link, credit)
    seen: list[Message] = []
    shown = asyncio.Event()

    def on_message(message: Message) -> None:
        seen.append(message)
        shown.set()

    channel.on_close.append(lambda _: shown.set())
    try:
        await channel.consume(core.names.control, on_message, arguments={_OFFSET: where})
        async with asyncio.timeout(_SHOWN_S):
            await shown.wait()
        await channel.call("basic_qos", prefetch_count=credit)
    except TimeoutError:
        return []
    except (ChannelClosed, Unavailable) as error:
        raise _unreadable(core, error) from error
    finally:
        await channel.close()
    return seen


async def _open_stream(core: Core, link: Link, credit: int) -> Channel:
    try:
        channel = await link.channel()
        await channel.call("basic_qos", prefetch_count=credit)
    except (ChannelClosed, Unavailable) as error:
        raise _unreadable(core, error) from error
    return channel


def _unreadable(core: Core, error: Exception) -> ControlUnavailable:
    where = f"the control log {core.names.control} at {core.publish_link.target}"
    if isinstance(error, ChannelClosed) and error.code == NOT_FOUND:
        return ControlUnavailable(f"{where} does not exist: run `taskyard broker apply`")
    return ControlUnavailable(f"{where} cannot be read now: {error}")


def _offset_of(message: Message) -> int:
    headers: Any = message.properties.headers if message.properties else None
    offset = headers.get(_OFFSET) if headers else None
    return offset if isinstance(offset, int) else -1
