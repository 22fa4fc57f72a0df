"""`/metrics`, `/livez` and `/readyz`, served from a thread: they answer while the loop stands still.

As much of HTTP/1.0 as that takes: the standard library's `http.server` would do, but loads `email`
and what else it takes to read any header, 1 to 3 MiB for as long as the worker lives.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import asdict
from http import HTTPStatus
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from taskyard.shared.clock import SystemClock
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"

#: Bytes of a request and its headers, at most.
_HEAD_MAX: Final = 64 * 1024
#: Seconds in which a client has to say what it wants, and then to take what it gets.
_PATIENCE_S: Final = 5.0

T = TypeVar("T")

_Answer = tuple[HTTPStatus, str, bytes]


class HealthServer:
    """Listens from construction until `close`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        signs: Callable[[], T],
        metrics: Callable[[], bytes],
        dead: Callable[[T], list[str]],
        unready: Callable[[T], list[str]],
    ) -> None:
        """Listen on `host:port` (0: a free port).

        Args:
            host: address to listen on.
            port: see above.
            signs: looks at the worker or workers, as a dataclass.
            metrics: returns Prometheus' text.
            dead: returns why it should be replaced, given its signs.
            unready: returns why it is not ready.

        All are called in the server's threads.

        Raises:
            ConfigurationError: the port is taken, or the address is not ours.

        """
        try:
            self._server = _Server(host, port)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = (
                f"TASKYARD_METRICS_PORT: cannot listen on {host}:{port}: {reason}; "
                "set another port, or 0 for a free one"
            )
            raise ConfigurationError(msg) from error
        self._server.answers = {
            "/metrics": lambda: (HTTPStatus.OK, _TEXT, metrics()),
            "/livez": lambda: _verdict("alive", signs(), dead),
            "/readyz": lambda: _verdict("ready", signs(), unready),
        }
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)

    def _serve(self) -> None:
        self._server.serve_forever(poll_interval=0.1)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    answers: dict[str, Callable[[], _Answer]]

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a prober that hangs up is its own affair."""


class _Handler(BaseRequestHandler):
    def handle(self) -> None:
        connection = cast("socket.socket", self.request)
        status, kind, body = self._answer(_read_request(connection))
        head = (
            f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(_PATIENCE_S)
        connection.sendall(head.encode() + body)

    def _answer(self, request: bytes) -> _Answer:
        line, _, rest = request.partition(b"\n")
        method, _, words = line.strip().partition(b" ")
        path, _, version = words.partition(b" ")
        if not version.startswith(b"HTTP/") or _end_of_headers(b"\n" + rest, 0) < 0:
            return HTTPStatus.BAD_REQUEST, _TEXT, b"this is no request of HTTP/1\n"
        if method != b"GET":
            return HTTPStatus.NOT_IMPLEMENTED, _TEXT, b"only GET is known\n"
        answers = cast("_Server", self.server).answers
        answer = answers.get(path.partition(b"?")[0].decode(errors="replace"))
        if answer is None:
            return HTTPStatus.NOT_FOUND, _TEXT, b"known are /metrics, /livez and /readyz\n"
        return answer()


def _read_request(connection: socket.socket) -> bytes:
    """Return a request and its headers, or what there is of them where they end too early or never.

    What is not read is answered by a reset, which may overtake our answer: so all of them are.

    Raises:
        TimeoutError: they took too long, as those do that come byte by byte to hold a thread.

    """
    clock = SystemClock()
    until_s = clock.monotonic_s() + _PATIENCE_S
    head = bytearray()
    seen = 0
    while _end_of_headers(head, seen) < 0 and len(head) < _HEAD_MAX:
        seen = max(len(head) - 2, 0)  # an end may be cut, too
        connection.settimeout(max(until_s - clock.monotonic_s(), 0.001))
        piece = connection.recv(_HEAD_MAX)
        if not piece:
            break
        head += piece
    return bytes(head)


def _end_of_headers(head: bytes | bytearray, start: int) -> int:
    """Return where the empty line begins that ends them, from an offset on; -1 if there is none."""
    return max(head.find(b"\n\r\n", start), head.find(b"\n\n", start))


def _verdict(key: str, signs: T, judge: Callable[[T], list[str]]) -> _Answer:
    problems = judge(signs)
    shown = asdict(cast("DataclassInstance", signs))
    body = msgspec.json.encode({key: not problems, "problems": problems, **shown})
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, _JSON, body
