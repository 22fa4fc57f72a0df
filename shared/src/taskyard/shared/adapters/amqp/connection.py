"""pika's asyncio connection, with what we need of it and what it lacks.

This module and `channel` are the only ones that touch pika's inside.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final

import pika
import pika.exceptions
from pika.adapters.asyncio_connection import AsyncioConnection

from taskyard.shared.adapters.amqp.frames import BODY, FRAME_END, FRAME_HEAD, HEADER, METHOD
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.adapters.amqp.frames import Fragment, Inbound
    from taskyard.shared.adapters.amqp.url import Address

#: Bytes of a frame without a payload.
_EMPTY_FRAME: Final = 7
#: Kinds of frames; a refusal by another protocol version begins with an `A`.
_KINDS: Final = frozenset({METHOD, HEADER, BODY, 4, 8})
_ACCESS_REFUSED: Final = 403
_NOT_ALLOWED: Final = 530
_CONNECT_S: Final = 5.0
#: How long a connection that was given up may still take to have a transport.
_CONNECTING_S: Final = 0.1
_HANDSHAKE_S: Final = 10.0
#: pika reads 4 KiB at a time, and takes what it read apart once per frame.
_READ_BYTES: Final = 64 * 1024


def parameters(
    address: Address, *, connection_name: str, heartbeat_s: float
) -> pika.ConnectionParameters:
    """Return pika's parameters for one attempt at one node."""
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=max(1, round(heartbeat_s)),
        connection_attempts=1,
        retry_delay=0,
        socket_timeout=_CONNECT_S,
        stack_timeout=_HANDSHAKE_S,
        ssl_options=pika.SSLOptions(address.tls, address.host) if address.tls else None,
        client_properties={
            "connection_name": f"{connection_name} {socket.gethostname()}:{os.getpid()}",
            "product": "Taskyard",
        },
    )


class Pulse:
    """Declares a connection dead after one and a half silent heartbeats, and sends our own.

    pika's own notices after one to two times (heartbeat + 5 s), which is too late for a lock. What
    has arrived is read before timers run, so a loop that was busy for long does not kill it.
    """

    def __init__(self, connection: Connection, heartbeat_s: float) -> None:
        """Begin to send and to listen."""
        self._connection = connection
        self._heartbeat_s = heartbeat_s
        self._loop = asyncio.get_running_loop()
        self._seen_bytes = -1
        self._silent = 0
        self._ticks = 0
        self._timer = self._loop.call_later(heartbeat_s / 4, self._tick)

    def received(self) -> None:
        """Be told of a heartbeat; its bytes were counted already."""

    def stop(self) -> None:
        """End it."""
        self._timer.cancel()

    def _tick(self) -> None:
        seen = self._connection.bytes_received
        self._silent = self._silent + 1 if seen == self._seen_bytes else 0
        self._seen_bytes = seen
        if self._silent >= 6:  # quarters of a heartbeat
            text = f"nothing was heard from the broker for {self._heartbeat_s * 1.5:g} s"
            self._connection._terminate_stream(pika.exceptions.AMQPHeartbeatTimeout(text))
            return
        self._ticks += 1
        if self._ticks % 2 == 0:
            self._connection._send_frame(pika.frame.Heartbeat())
        self._timer = self._loop.call_later(self._heartbeat_s / 4, self._tick)


class Connection(AsyncioConnection):  # type: ignore[misc]
    """One AMQP connection, from its TCP connect to its end."""

    def __init__(
        self,
        parameters: pika.ConnectionParameters,
        *,
        on_open: Callable[[Connection], None],
        on_end: Callable[[Connection, Exception], None],
    ) -> None:
        """Begin to connect; exactly one of the callbacks follows, and `on_end` ends it."""
        #: (code, text) with which the broker closed it.
        self.closed_by_broker: tuple[int, str] | None = None
        #: Who reads the hot frames of a channel, by its number.
        self.inbound: dict[int, Inbound] = {}
        self._rest = b""
        #: To write to without pika; none under TLS, and before there is a connection.
        self._socket: socket.socket | None = None
        self._given_up = False
        super().__init__(
            parameters,
            on_open_callback=on_open,
            on_open_error_callback=on_end,
            on_close_callback=on_end,
            custom_ioloop=asyncio.get_running_loop(),
        )

    def abort(self) -> None:
        """Drop the socket without a goodbye; `on_end` follows.

        While pika has no transport yet, it is dropped when it is there, or after `_CONNECTING_S`:
        between the two, pika's own abort leaves the socket open, or fails.
        """
        self._given_up = True
        self._socket = None
        if self._transport is not None:
            self._error = pika.exceptions.ConnectionOpenAborted("aborted")
            self._transport.abort()
        else:
            asyncio.get_running_loop().call_later(_CONNECTING_S, self._stop_connecting)

    def _stop_connecting(self) -> None:
        if self._transport is None and self._connection_workflow is not None:
            self.close()

    @property
    def buffered_bytes(self) -> int:
        """How much is written and not yet taken by the socket."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def refusal(self) -> ConfigurationError | None:
        """Return what only a human can mend about logging in, if that is why it ended."""
        if self.closed_by_broker is None:
            return None
        code, text = self.closed_by_broker
        where = f"TASKYARD_BROKER_URL: {self.params.host}:{self.params.port}"
        user, vhost = self.params.credentials.username, self.params.virtual_host
        if code == _ACCESS_REFUSED and "vhost" not in text:
            return ConfigurationError(f"{where} refuses user {user!r}: wrong name or password")
        if code in {_ACCESS_REFUSED, _NOT_ALLOWED} and "vhost" in text and "down" not in text:
            return ConfigurationError(
                f"{where}: the virtual host {vhost!r} does not exist, or user {user!r} may not use it"
            )
        return None

    def emit(self, data: Fragment) -> None:
        """Write frames: at once where the socket takes them, else when it does.

        pika always waits for the loop to say that it would, which is a turn of the loop and three
        calls into the system more for each write.
        """
        size = len(data)
        self.bytes_sent += size
        transport = self._transport
        if self._socket is not None and not transport.get_write_buffer_size():
            try:
                sent = self._socket.send(data)
            except OSError:  # it is full, or broken: pika finds that out, and deals with it
                sent = 0
            if sent == size:
                return
            data = memoryview(data)[sent:]
        transport.write(data)

    @property
    def body_max(self) -> int:
        """How many bytes of a body fit into a frame."""
        return int(self._body_max_length)

    # What pika lets a subclass decide.

    def _on_data_available(self, data_in: bytes) -> None:
        """Take frames apart: the hot ones here, the others through pika."""
        self.bytes_received += len(data_in)
        data = self._rest + data_in if self._rest else data_in
        at, end = 0, len(data)
        inbound = self.inbound
        while end - at > _EMPTY_FRAME:
            kind, number, size = FRAME_HEAD.unpack_from(data, at)
            stop = at + 7 + size
            if kind not in _KINDS:
                stop = at + _EMPTY_FRAME  # the broker speaks another protocol: pika says so
            elif stop >= end:
                break
            elif data[stop] != FRAME_END:
                raise pika.exceptions.InvalidFrameError("a frame has no end")
            taker = inbound.get(number)
            if taker is None or not (
                (kind == METHOD and taker.method(data, at + 7))
                or (kind == BODY and taker.body(data, at + 7, stop))
                or (kind == HEADER and taker.header(data, at + 7))
            ):
                _, value = pika.frame.decode_frame(data[at : stop + 1])
                if value is not None:
                    self._process_frame(value)
            at = stop + 1
        self._rest = data[at:] if at < end else b""

    def _adapter_connect_stream(self) -> None:
        """Begin to connect; a peer that is gone by the time pika looks ends that at once.

        pika raises into the event loop then, and would sit there until `_HANDSHAKE_S` have passed.
        """
        create = self._nbio.create_streaming_connection

        def tolerant(*, on_done: Callable[[Any], None], **more: Any) -> Any:
            try:
                return create(on_done=on_done, **more)
            except ValueError as error:  # it has closed the socket
                return asyncio.get_running_loop().call_soon(on_done, error)

        self._nbio.create_streaming_connection = tolerant
        super()._adapter_connect_stream()

    def _adapter_disconnect_stream(self) -> None:
        """Drop the socket; until pika has closed it, nothing more is written to it."""
        self._socket = None
        super()._adapter_disconnect_stream()

    def _on_connection_workflow_done(self, outcome: Any) -> None:
        """Take the end of connecting, which pika reports by a class when it was aborted."""
        super()._on_connection_workflow_done(outcome() if isinstance(outcome, type) else outcome)

    def _create_heartbeat_checker(self) -> Pulse | None:
        return Pulse(self, self.params.heartbeat) if self.params.heartbeat else None

    def _on_connection_close_from_broker(self, method_frame: Any) -> None:
        self.closed_by_broker = (method_frame.method.reply_code, method_frame.method.reply_text)
        super()._on_connection_close_from_broker(method_frame)

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = _READ_BYTES
        if self.params.ssl_options is None:
            self._socket = transport._sock
            # One read in a turn of the loop: a second one mostly finds nothing, which costs pika an
            # exception. What is left is signalled again; under TLS it would not be.
            transport._MAX_CONSUME_BYTES = 1
        super()._proto_connection_made(transport)
        if self._given_up:
            self.abort()
