"""One connection to the peer that stands in for a broker: what it reads, and what it writes."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import pika
from pika import spec

from benchmarks.counts.answers import GREETING, answer_to

if TYPE_CHECKING:
    from benchmarks.counts.peer import Peer

_READ_BYTES: Final = 256 * 1024
_HEAD: Final = Struct(">BHL")
_METHOD: Final = Struct(">L")
_ACK: Final = Struct(">QB")
_ACK_FRAME: Final = Struct(">BHLLQBB")
_BASIC_ACK: Final = 0x003C0050
_BASIC_PUBLISH: Final = 0x003C0028
_BASIC_DELIVER: Final = 0x003C003C
_PROTOCOL: Final = b"AMQP\x00\x00\x09\x01"


@dataclass(frozen=True, slots=True)
class Portion:
    """Deliveries as they are written, and their tags."""

    data: bytes
    tags: frozenset[int]


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
        self._kept: list[bytes] = []
        self._is_late = False
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
        if not data or not (self._greeted or data.startswith(_PROTOCOL)):
            self.end()
            return
        self._greeted = True
        if self._rest or not self._passed(data):
            self.take_apart()
            self._take(self._rest + data)
        self._confirm()
        self._write()
        self._peer.go_on()

    def _passed(self, data: bytes) -> bool:
        """Deal with what comes in masses, in few steps; tells whether it was that."""
        kind = data[7:11]
        if kind == _METHOD.pack(_BASIC_PUBLISH) and data.endswith(b"\xce"):
            self._kept.append(data)
            channel = int.from_bytes(data[1:3], "big")
            self._published[channel] = self._published.get(channel, 0) + data.count(kind + b"\0\0")
            return True
        if kind == _METHOD.pack(_BASIC_ACK) and len(data) % _ACK_FRAME.size == 0:
            for *_, tag, multiple, _ in _ACK_FRAME.iter_unpack(data):
                self._acknowledged(tag, multiple)
            return True
        return False

    def take_apart(self) -> None:
        """Find the jobs in what was published and is confirmed already."""
        kept, self._kept = self._kept, []
        self._is_late = True
        for data in kept:
            self._take(data)
        self._is_late = False

    def _take(self, data: bytes) -> None:
        at = 0
        if data.startswith(_PROTOCOL):
            at = len(_PROTOCOL)
            self._method(0, GREETING)
        while len(data) - at >= 8:
            kind, channel, size = _HEAD.unpack_from(data, at)
            end = at + 8 + size
            if end > len(data):
                break
            self._frame(kind, channel, data, at, end)
            at = end
        self._rest = data[at:]

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
            if not self._is_late:
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
        answer = answer_to(asked, feed=self._peer.feed)
        if answer is not None:
            self._method(channel, answer)
        if isinstance(asked, spec.Basic.Consume):
            self._consumer(channel, asked.queue, asked.consumer_tag)

    def _consumer(self, channel: int, queue: str, tag: str) -> None:
        if queue == self._peer.queue:
            self._peer.consumed(self, channel, tag)
        elif queue.endswith(".control"):
            properties = pika.BasicProperties(
                content_type="application/json", headers={"x-stream-offset": 0}
            )
            body = self._peer.control
            self._method(channel, spec.Basic.Deliver(tag, 1, False, queue, ""))
            self._out.append(pika.frame.Header(channel, len(body), properties).marshal())
            self._out.append(pika.frame.Body(channel, body).marshal())

    # out

    def portion(self, channel: int, consumer_tag: str, jobs: list[list[bytes]]) -> Portion:
        """Make deliveries ready."""
        number = channel.to_bytes(2, "big")
        data: list[bytes] = []
        first = self._tag + 1
        for frames in jobs:
            self._tag += 1
            payload = (
                _METHOD.pack(_BASIC_DELIVER)
                + _short(consumer_tag)
                + _ACK.pack(self._tag, 0)
                + _short("taskyard.tasks")
                + _short(self._peer.queue.rpartition(".")[2])
            )
            data.append(_HEAD.pack(1, channel, len(payload)) + payload + b"\xce")
            data += [frame[:1] + number + frame[3:] for frame in frames]
        return Portion(b"".join(data), frozenset(range(first, self._tag + 1)))

    def deliver(self, portion: Portion) -> None:
        """Hand jobs over."""
        self.unsettled |= portion.tags
        self._out.append(portion.data)
        self._write()

    def _confirm(self) -> None:
        for channel, number in self._published.items():
            if number > self._confirmed.get(channel, 0):
                self._confirmed[channel] = number
                self._out.append(_ACK_FRAME.pack(1, channel, 13, _BASIC_ACK, number, 1, 0xCE))

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
