"""`/metrics`, `/livez` and `/readyz`, served from a thread: they answer while the loop stands still."""

from __future__ import annotations

import threading
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import msgspec

from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: dict[str, Callable[[], _Answer]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a prober that hangs up is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    #: Seconds after which a client that says nothing no longer holds its thread.
    timeout: ClassVar[float | None] = 5.0
    server_version = "taskyard"
    sys_version = ""

    def do_GET(self) -> None:  # the name http.server looks for
        answer = cast("_Server", self.server).answers.get(self.path.partition("?")[0])
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, "known are /metrics, /livez and /readyz")
            return
        status, kind, body = answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Probes are not worth a log line."""


def _verdict(key: str, signs: T, judge: Callable[[T], list[str]]) -> _Answer:
    problems = judge(signs)
    shown = asdict(cast("DataclassInstance", signs))
    body = msgspec.json.encode({key: not problems, "problems": problems, **shown})
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, _JSON, body
