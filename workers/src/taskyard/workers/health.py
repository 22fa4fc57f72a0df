"""`/metrics`, `/livez` and `/readyz`, served from a thread: they answer while the loop stands still.

As much of HTTP/1.0 as that takes: the standard library's `http.server` would do, but loads `email`
and what else it takes to read any header, 1 to 3 MiB for as long as the worker lives.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from http import HTTPStatus
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import msgspec

from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"

#: Bytes of a line and lines of a request, at most.
_LINE_MAX, _LINES_MAX = 64 * 1024, 200

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
            self._server = _Server((host, port), _Handler)
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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a prober that hangs up is its own affair."""


class _Handler(StreamRequestHandler):
    #: Seconds after which a client that says nothing no longer holds its thread.
    timeout: ClassVar[float | None] = 5.0

    def handle(self) -> None:
        status, kind, body = self._answer(self.rfile.readline(_LINE_MAX))
        head = (
            f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.wfile.write(head.encode() + body)

    def _answer(self, request: bytes) -> _Answer:
        method, _, rest = request.strip().partition(b" ")
        path, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/") or not self._skip_headers():
            return HTTPStatus.BAD_REQUEST, _TEXT, b"this is no request of HTTP/1\n"
        if method != b"GET":
            return HTTPStatus.NOT_IMPLEMENTED, _TEXT, b"only GET is known\n"
        answers = cast("_Server", self.server).answers
        answer = answers.get(path.partition(b"?")[0].decode(errors="replace"))
        if answer is None:
            return HTTPStatus.NOT_FOUND, _TEXT, b"known are /metrics, /livez and /readyz\n"
        return answer()

    def _skip_headers(self) -> bool:
        """Read them, or the system would reset the connection under the answer."""
        lines = (self.rfile.readline(_LINE_MAX) for _ in range(_LINES_MAX))
        return any(line in {b"\r\n", b"\n"} for line in lines)


def _verdict(key: str, signs: T, judge: Callable[[T], list[str]]) -> _Answer:
    problems = judge(signs)
    shown = asdict(cast("DataclassInstance", signs))
    body = msgspec.json.encode({key: not problems, "problems": problems, **shown})
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, _JSON, body
