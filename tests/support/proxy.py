"""A TCP proxy on 127.0.0.1 that can misbehave: between a client under test and its server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65_536

#: How many chunks a delayed direction may hold before it stops reading.
_CHUNKS_IN_FLIGHT = 256

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to one address. `async with Proxy(host, port) as proxy:`."""

    def __init__(self, host: str, port: int) -> None:
        """Take the address to forward to."""
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._weather = _Weather()
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._refusing = False

    @classmethod
    def to(cls, url: str) -> Self:
        """Return a proxy for the host and port of a URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 5672)

    @property
    def port(self) -> int:
        """The port that clients connect to; 0 before `start`."""
        return self._listener.getsockname()[1] if self._listener is not None else 0

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._links)

    def url(self, url: str) -> str:
        """Return `url` with this proxy's address in place of the server's."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    async def start(self) -> None:
        """Start to listen on a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(self._listener), name="proxy")

    async def close(self) -> None:
        """Reset all connections and stop listening."""
        tasks = [*self._links.values()]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    def cut(self) -> None:
        """Reset every open connection (RST), on both sides; new ones are forwarded as before."""
        for task in self._links.values():
            task.cancel()

    def refuse(self) -> None:
        """Reset every open connection, and every new one at once, until `resume`."""
        self._refusing = True
        self.cut()

    def stall(self) -> None:
        """Accept connections, but move no byte in either direction until `resume`."""
        self._weather.flowing.clear()

    def half_open(self) -> None:
        """Make the server vanish from every open connection without a word to the client.

        The client's socket stays open and takes bytes that nobody reads; the server sees a reset.
        New connections are forwarded as before.
        """
        for link in self._links:
            link.lose_server()

    def delay(self, seconds: float) -> None:
        """Deliver what is sent from now on `seconds` later, in each direction."""
        self._weather.delay_s = seconds

    def resume(self) -> None:
        """Undo `stall`, `refuse` and `delay`; what `cut` and `half_open` broke stays broken."""
        self._weather.delay_s = 0.0
        self._weather.flowing.set()
        self._refusing = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            if self._refusing:
                _close(client, reset=True)
                continue
            link = _Link(client, self._target, self._weather)
            task = asyncio.create_task(link.run(), name="proxy connection")
            self._links[link] = task
            task.add_done_callback(partial(self._forget, link))

    def _forget(self, link: _Link, task: asyncio.Task[None]) -> None:
        del self._links[link]
        link.abandon()
        if not task.cancelled():
            # Raises what went wrong in the proxy itself, for the loop to report.
            task.result()


class _Weather:
    """What all connections of a proxy suffer."""

    def __init__(self) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay_s = 0.0


class _Link:
    """One forwarded connection. Cancelling `run` resets both of its sides."""

    def __init__(self, client: socket.socket, target: tuple[str, int], weather: _Weather) -> None:
        self._client = client
        self._server = socket.socket()
        self._target = target
        self._weather = weather
        self._flow: asyncio.Task[None] | None = None

    def lose_server(self) -> None:
        if self._flow is not None:
            self._flow.cancel()

    def abandon(self) -> None:
        """Close what is left open: a task that is cancelled before it began closes nothing."""
        _close(self._client, reset=True)
        _close(self._server, reset=True)

    async def run(self) -> None:
        reset = True
        try:
            self._flow = asyncio.create_task(self._forward_both(), name="proxy flow")
            # Not a plain await: `lose_server` cancels the flow, not the connection.
            await asyncio.wait([self._flow])
            if self._flow.cancelled():
                _close(self._server, reset=True)
                await self._swallow()
            elif self._flow.exception() is None:
                reset = False
        except OSError:
            # The client is gone as well; nothing is left to pretend.
            reset = True
        finally:
            # After the tasks that use the sockets, so that no descriptor is used again too early.
            if self._flow is not None:
                self._flow.cancel()
                await asyncio.wait([self._flow])
            _close(self._client, reset=reset)
            _close(self._server, reset=reset)

    async def _forward_both(self) -> None:
        loop = asyncio.get_running_loop()
        self._client.setblocking(False)
        self._server.setblocking(False)
        await loop.sock_connect(self._server, self._target)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forward(self._client, self._server))
            group.create_task(self._forward(self._server, self._client))

    async def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        """Move one direction, until its source ends."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(chunks, sink))
            data = b"not yet read"
            while data:
                await self._weather.flowing.wait()
                data = await loop.sock_recv(source, _CHUNK_BYTES)
                await chunks.put((loop.time() + self._weather.delay_s, data))

    async def _deliver(
        self, chunks: asyncio.Queue[tuple[float, bytes]], sink: socket.socket
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await chunks.get()
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            await self._weather.flowing.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)

    async def _swallow(self) -> None:
        """Read what the client sends to the server that it has lost."""
        loop = asyncio.get_running_loop()
        while await loop.sock_recv(self._client, _CHUNK_BYTES):
            pass


def _close(sock: socket.socket, *, reset: bool) -> None:
    """Close a socket; with `reset` so that its peer sees an error, not an orderly end."""
    with contextlib.suppress(OSError):
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    sock.close()
