"""Writing to a connection's socket at once: whole, in order, whatever the socket takes."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from pika.adapters.asyncio_connection import _AsyncioIOServicesAdapter
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport

from taskyard.shared.adapters.amqp.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class _Protocol:
    """What pika's transport reports to."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        raise AssertionError(f"nothing was sent here: {data!r}")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        del error
        self.lost.set()


class _Pair:
    """A connection that writes to one end of a pair of sockets, and the other end."""

    def __init__(self, *, plain: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.protocol = _Protocol()
        self.transport = _AsyncPlaintextTransport(
            self.ours,
            self.protocol,
            _AsyncioIOServicesAdapter(loop),
        )
        self.connection = Connection.__new__(Connection)
        self.connection.bytes_sent = 0
        self.connection._opened = True
        self.connection._transport = self.transport
        self.connection._socket = self.ours if plain else None

    async def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await asyncio.get_running_loop().sock_recv(self.theirs, 65536)
        return data

    def close(self) -> None:
        self.theirs.close()
        if self.ours.fileno() >= 0:
            self.transport.abort()


@pytest.fixture
async def pair() -> AsyncIterator[_Pair]:
    made = _Pair()
    yield made
    made.close()
    await made.protocol.lost.wait()


async def test_a_small_write_is_on_its_way_at_once(pair: _Pair) -> None:
    pair.connection.emit(b"frame")

    assert pair.theirs.recv(100) == b"frame"  # no turn of the loop has passed
    assert pair.connection.bytes_sent == 5
    assert pair.transport.get_write_buffer_size() == 0


async def test_what_the_socket_does_not_take_follows_in_order(pair: _Pair) -> None:
    """The first fills the socket in its middle; the others wait behind its rest."""
    pieces = [bytes([number]) * 300_000 for number in range(1, 5)]
    for number, piece in enumerate(pieces):
        pair.connection.emit(memoryview(piece) if number % 2 else piece)

    assert pair.transport.get_write_buffer_size() > 0
    assert await pair.read(1_200_000) == b"".join(pieces)
    pair.connection.emit(b"after")
    assert await pair.read(5) == b"after"
    assert pair.connection.bytes_sent == 1_200_005


async def test_a_full_socket_takes_nothing_and_nothing_is_lost(pair: _Pair) -> None:
    filled = 0
    while True:
        try:
            filled += pair.ours.send(b"x" * 1000)
        except BlockingIOError:
            break
    pair.connection.emit(b"late")

    assert (await pair.read(filled + 4))[filled:] == b"late"


async def test_a_broken_socket_is_for_pika_to_find(pair: _Pair) -> None:
    pair.theirs.close()
    pair.connection.emit(b"lost")

    await asyncio.wait_for(pair.protocol.lost.wait(), 5)


async def test_a_connection_that_pika_drops_writes_no_more(pair: _Pair) -> None:
    """It was declared dead, and its socket is closed in a later turn of the loop."""
    pair.connection._adapter_disconnect_stream()
    pair.connection.emit(b"late")
    await pair.protocol.lost.wait()

    assert pair.theirs.recv(100) == b""


async def test_a_connection_that_is_aborted_writes_no_more(pair: _Pair) -> None:
    """Neither at once, nor when the socket is closed."""
    pair.connection.abort()
    pair.connection.emit(b"late")
    await pair.protocol.lost.wait()
    pair.connection.emit(b"later")

    assert pair.theirs.recv(100) == b""


async def test_without_a_socket_of_its_own_pika_writes_all() -> None:
    """As under TLS."""
    pair = _Pair(plain=False)
    pair.connection.emit(b"frame")

    assert pair.transport.get_write_buffer_size() == 5
    assert await pair.read(5) == b"frame"
    pair.close()
    await pair.protocol.lost.wait()
