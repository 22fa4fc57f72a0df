"""The broker's side of AMQP in this very process: what it does, it does the same way every time.

It speaks over real sockets, so that whatever the adapter is made of is run, and it answers in fixed
portions: publishes are confirmed together, deliveries come `PORTION` at a time once the last portion
is acknowledged. It keeps the jobs that were published, and hands over as many as it is told to.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from struct import Struct
from typing import Any, Final, Self

import pika
from pika import spec

#: Deliveries in one piece, acknowledged before the next: a busy worker's batches look like this.
PORTION: Final = 50
_READ_BYTES: Final = 256 * 1024
_HEAD: Final = Struct(">BHL")
_METHOD: Final = Struct(">L")
_ACK: Final = Struct(">QB")
_BASIC_ACK: Final = 0x003C0050
_BASIC_PUBLISH: Final = 0x003C0028
_BASIC_DELIVER: Final = 0x003C003C
_GREETING: Final = b"AMQP\x00\x00\x09\x01"
_PROPERTIES: Final = {
    "product": "RabbitMQ",
    "version": "4.3.0",
    "cluster_name": "peer",
    "capabilities": dict.fromkeys(
        (
            "publisher_confirms",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "per_consumer_qos",
        ),
        True,
    ),
}


class Peer:
    """`async with Peer(feed=…) as peer:` listens at `peer.url`.

    Attributes:
        url: to connect to.
        stored: jobs that were published and not handed over, as their frames after the method's.

    """

    def __init__(self, *, feed: bool, queue: str, control: bytes) -> None:
        """Prepare it.

        Args:
            feed: whether the lifecycle feed is set up, so that outcomes are recorded.
            queue: the work queue of `namespace.q.name`, which is the only one with jobs.
            control: body of the one message in the control log.

        """
        self.url = ""
        self.stored: deque[list[bytes]] = deque()
        self.feed = feed
        self.queue = queue
        self.control = control
        self.consumers: list[tuple[Session, int, str]] = []
        self._released = 0
        self._settled = asyncio.Event()
        self._listener = socket.socket()
        self._sessions: list[Session] = []
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        self.url = f"amqp://peer:peer@127.0.0.1:{self._listener.getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop everybody."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for session in self._sessions:
            session.end()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sessions.append(Session(self, accepted, self._loop))

    async def hand_over(self, number: int) -> None:
        """Deliver so many jobs, and return once each is acknowledged."""
        if number > len(self.stored):
            msg = f"{number} jobs are to be delivered, and {len(self.stored)} are there"
            raise ValueError(msg)
        self._released = number
        self._settled.clear()
        self.go_on()
        await self._settled.wait()

    def go_on(self) -> None:
        """Deliver the next portion, or say that all is settled."""
        if not self.consumers:
            return
        session, channel, tag = self.consumers[-1]
        if session.unsettled:
            return
        if not self._released:
            self._settled.set()
            return
        portion = min(PORTION, self._released)
        self._released -= portion
        session.deliver(channel, tag, [self.stored.popleft() for _ in range(portion)])


def _short(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


class Session:
    """One connection, seen from the broker."""

    def __init__(self, peer: Peer, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        """Serve what was accepted."""
        self.unsettled: set[int] = set()
        self._peer = peer
        self._socket = sock
        self._loop = loop
        self._rest = b""
        self._greeted = False
        self._published: dict[int, int] = {}
        self._confirmed: dict[int, int] = {}
        self._publishing: tuple[bool, list[bytes], int] | None = None
        self._tag = 0
        self._out: list[bytes] = []
        loop.add_reader(sock, self._read)

    def end(self) -> None:
        """Hang up."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    # in

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except ConnectionError:
            data = b""
        # Whoever asks for the management API, which is not there, goes without an answer.
        if not data or not (self._greeted or data.startswith(_GREETING)):
            self.end()
            return
        self._greeted = True
        data = self._rest + data
        at = 0
        if data.startswith(_GREETING):
            at = len(_GREETING)
            self._method(0, spec.Connection.Start(0, 9, _PROPERTIES, "PLAIN", "en_US"))
        while len(data) - at >= 8:
            kind, channel, size = _HEAD.unpack_from(data, at)
            end = at + 8 + size
            if end > len(data):
                break
            self._frame(kind, channel, data, at, end)
            at = end
        self._rest = data[at:]
        self._confirm()
        self._peer.go_on()
        self._write()

    def _frame(self, kind: int, channel: int, data: bytes, at: int, end: int) -> None:
        if kind == 1:
            number = _METHOD.unpack_from(data, at + 7)[0]
            if number == _BASIC_ACK:
                tag, multiple = _ACK.unpack_from(data, at + 11)
                self._acknowledged(tag, multiple)
            elif number == _BASIC_PUBLISH:
                named = data[at + 14 : at + 14 + data[at + 13]]
                self._publishing = (named.endswith(b".tasks"), [], -1)
            else:
                self._answer(channel, data[at:end])
        elif kind in {2, 3} and self._publishing is not None:
            self._content(kind, channel, data[at:end])

    def _content(self, kind: int, channel: int, frame: bytes) -> None:
        is_job, frames, left = self._publishing or (False, [], 0)
        frames.append(frame)
        left = int.from_bytes(frame[11:19], "big") if kind == 2 else left - (len(frame) - 8)
        self._publishing = (is_job, frames, left)
        if left == 0:
            self._publishing = None
            self._published[channel] = self._published.get(channel, 0) + 1
            if is_job:
                self._peer.stored.append(frames)

    def _acknowledged(self, tag: int, multiple: int) -> None:
        if multiple:
            self.unsettled -= {each for each in self.unsettled if each <= tag}
        else:
            self.unsettled.discard(tag)

    def _answer(self, channel: int, frame: bytes) -> None:
        """Answer what is asked while connecting and setting up."""
        _, decoded = pika.frame.decode_frame(frame)
        asked: Any = getattr(decoded, "method", None)
        answer: Any = None
        if isinstance(asked, spec.Connection.StartOk):
            answer = spec.Connection.Tune(2047, 131072, 0)
        elif isinstance(asked, spec.Connection.Open):
            answer = spec.Connection.OpenOk()
        elif isinstance(asked, spec.Connection.Close):
            answer = spec.Connection.CloseOk()
        elif isinstance(asked, spec.Channel.Open):
            answer = spec.Channel.OpenOk()
        elif isinstance(asked, spec.Channel.Close):
            answer = spec.Channel.CloseOk()
        elif isinstance(asked, spec.Confirm.Select):
            answer = spec.Confirm.SelectOk()
        elif isinstance(asked, spec.Basic.Qos):
            answer = spec.Basic.QosOk()
        elif isinstance(asked, spec.Basic.Cancel):
            answer = spec.Basic.CancelOk(asked.consumer_tag)
        elif isinstance(asked, spec.Basic.Consume):
            answer = spec.Basic.ConsumeOk(asked.consumer_tag)
        elif isinstance(asked, spec.Queue.Declare):
            absent = asked.queue.endswith(".ledger") and not self._peer.feed
            answer = (
                spec.Channel.Close(404, "NOT_FOUND", 50, 10)
                if absent
                else spec.Queue.DeclareOk(asked.queue, 0, 0)
            )
        if answer is not None:
            self._method(channel, answer)
        if isinstance(asked, spec.Basic.Consume):
            self._consumer(channel, asked.queue, asked.consumer_tag)

    def _consumer(self, channel: int, queue: str, tag: str) -> None:
        if queue == self._peer.queue:
            self._peer.consumers.append((self, channel, tag))
        elif queue.endswith(".control"):
            properties = pika.BasicProperties(
                content_type="application/json", headers={"x-stream-offset": 0}
            )
            body = self._peer.control
            self._method(channel, spec.Basic.Deliver(tag, 1, False, queue, ""))
            self._out.append(pika.frame.Header(channel, len(body), properties).marshal())
            self._out.append(pika.frame.Body(channel, body).marshal())

    # out

    def deliver(self, channel: int, consumer_tag: str, contents: list[list[bytes]]) -> None:
        """Hand jobs over."""
        number = channel.to_bytes(2, "big")
        key = self._peer.queue.rpartition(".")[2]
        for content in contents:
            self._tag += 1
            self.unsettled.add(self._tag)
            payload = b"".join(
                (
                    _METHOD.pack(_BASIC_DELIVER),
                    _short(consumer_tag),
                    _ACK.pack(self._tag, 0),
                    _short("taskyard.tasks"),
                    _short(key),
                )
            )
            self._frame_out(channel, payload)
            self._out += [frame[:1] + number + frame[3:] for frame in content]
        self._write()

    def _confirm(self) -> None:
        for channel, number in self._published.items():
            if number > self._confirmed.get(channel, 0):
                self._confirmed[channel] = number
                self._frame_out(channel, _METHOD.pack(_BASIC_ACK) + _ACK.pack(number, 1))

    def _frame_out(self, channel: int, payload: bytes) -> None:
        self._out.append(_HEAD.pack(1, channel, len(payload)) + payload + b"\xce")

    def _method(self, channel: int, method: Any) -> None:
        self._out.append(pika.frame.Method(channel, method).marshal())

    def _write(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        if not data:
            return
        sent = self._socket.send(data)
        if sent < len(data):
            self._out.append(data[sent:])
            self._loop.add_writer(self._socket, self._write_rest)

    def _write_rest(self) -> None:
        self._loop.remove_writer(self._socket)
        self._write()
