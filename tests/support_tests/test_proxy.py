"""The misbehaving TCP proxy, before a server that echoes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from support.eventually import eventually
from support.proxy import Proxy


class Echo:
    """A server that sends back what it gets, and counts its open connections."""

    def __init__(self) -> None:
        self.port = 0
        self.open = 0
        self.received = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(65_536):
                self.received += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    behaviour = Echo()
    server = await asyncio.start_server(behaviour.serve, "127.0.0.1", 0)
    behaviour.port = server.sockets[0].getsockname()[1]
    yield behaviour
    server.close()
    await server.wait_closed()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as running:
        yield running


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    """Connect a client to the proxy; it is closed with the test."""
    async with AsyncExitStack() as stack:

        async def client() -> Streams:
            streams = await asyncio.open_connection("127.0.0.1", proxy.port)
            stack.push_async_callback(hang_up, streams[1])
            return streams

        yield client


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def echoed(streams: Streams, data: bytes, within: float = 5.0) -> bytes:
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(within):
        return await reader.readexactly(len(data))


async def test_it_forwards_both_ways(echo: Echo, proxy: Proxy, connect: Connect) -> None:
    """A megabyte arrives whole, and the end of one side reaches the other."""
    streams = await connect()
    data = bytes(range(256)) * 4096
    assert await echoed(streams, data) == data
    await hang_up(streams[1])
    await eventually(lambda: echo.open == 0 and proxy.connections == 0)


async def test_cut_resets_what_is_open_and_forwards_what_comes(
    echo: Echo, proxy: Proxy, connect: Connect
) -> None:
    """An open connection is reset on both sides; a new one works."""
    reader, writer = await connect()
    assert await echoed((reader, writer), b"a") == b"a"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await eventually(lambda: echo.open == 0)
    assert await echoed(await connect(), b"b") == b"b"


async def test_refuse_resets_new_connections_until_resume(
    echo: Echo, proxy: Proxy, connect: Connect
) -> None:
    """While it refuses, nobody gets through."""
    proxy.refuse()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await echoed(await connect(), b"a")
    assert echo.received == b""
    proxy.resume()
    assert await echoed(await connect(), b"b") == b"b"


async def test_stall_holds_bytes_back_until_resume(
    echo: Echo, proxy: Proxy, connect: Connect
) -> None:
    """Connections are accepted but silent; what was sent meanwhile arrives afterwards."""
    old = await connect()
    assert await echoed(old, b"a") == b"a"
    proxy.stall()
    new = await connect()
    for streams in (old, new):
        with pytest.raises(TimeoutError):
            await echoed(streams, b"held", within=0.1)
    assert echo.received == b"a"
    proxy.resume()
    for streams in (old, new):
        async with asyncio.timeout(5):
            assert await streams[0].readexactly(4) == b"held"


async def test_half_open_loses_the_server_and_does_not_tell(
    echo: Echo, proxy: Proxy, connect: Connect
) -> None:
    """The client can go on writing and hears nothing; its end, or a cut, frees the connection."""
    reader, writer = await connect()
    assert await echoed((reader, writer), b"a") == b"a"
    proxy.half_open()
    await eventually(lambda: echo.open == 0)
    with pytest.raises(TimeoutError):
        await echoed((reader, writer), b"unheard", within=0.1)
    assert echo.received == b"a"
    assert await echoed(await connect(), b"b") == b"b"
    await hang_up(writer)
    await eventually(lambda: proxy.connections == 1)


async def test_delay_delivers_later_in_each_direction(
    echo: Echo, proxy: Proxy, connect: Connect
) -> None:
    """An echo takes two delays; chunks are delayed side by side, not one after another."""
    streams = await connect()
    assert await echoed(streams, b"a") == b"a"
    proxy.delay(0.15)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(10):
        streams[1].write(b"x")
        await streams[1].drain()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await streams[0].readexactly(10)
    assert 0.3 <= loop.time() - start < 1.5
    proxy.resume()
    assert await echoed(streams, b"z") == b"z"


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    """The client sees a reset when the proxy cannot reach the server."""
    async with Proxy("127.0.0.1", 1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        await hang_up(writer)


async def test_it_puts_itself_into_a_url(echo: Echo, proxy: Proxy, connect: Connect) -> None:
    """Credentials, virtual host and query are kept."""
    url = proxy.url("amqp://user:secret@broker:5672/%2F?heartbeat=5")
    assert url == f"amqp://user:secret@127.0.0.1:{proxy.port}/%2F?heartbeat=5"
