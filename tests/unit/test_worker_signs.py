"""When a worker is alive and when it is ready, and the server that says so."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import httpx
import pytest

from taskyard.shared import health
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.health import HealthServer
from taskyard.workers.signs import LaneSigns, Signs, why_dead, why_not_ready


def lane(**changes: Any) -> LaneSigns:
    return LaneSigns(**{"queue": "q", "slots": 10, **changes})


@pytest.mark.parametrize(
    ("signs", "dead", "unready"),
    [
        (Signs(lanes=(lane(),)), 0, 0),
        (Signs(connected=False, lanes=(lane(present=False),)), 0, 1),
        (Signs(blocked=True, lanes=(lane(),)), 0, 0),
        (Signs(lag_s=11), 1, 0),
        (Signs(lanes=(lane(present=False, absent_s=5),)), 0, 1),
        (Signs(lanes=(lane(present=False, absent_s=31),)), 1, 1),
        (Signs(lanes=(lane(present=False, paused=True),)), 0, 0),
        (Signs(lanes=(lane(stuck=3, slots=2),)), 0, 0),
        (Signs(lanes=(lane(stuck=4, slots=2),)), 1, 0),
        (Signs(control_ready=False, lanes=(lane(present=False),)), 0, 1),
        (Signs(control_problem="gone", lanes=(lane(),)), 0, 1),
        (Signs(lanes=(lane(present=False, absent_s=99, problem="set-up failed"),)), 0, 1),
        (Signs(stopping=True), 0, 1),
    ],
)
def test_liveness_is_honest(signs, dead, unready):
    """A broker outage alone is not death; a lost consumer, a stuck loop or stuck slots are."""
    assert len(why_dead(signs)) == dead
    assert len(why_not_ready(signs)) == unready


def test_the_server_says_what_is_wrong():
    """200 or 503 with a JSON body that names the problems; metrics as text; 404 names the paths."""
    shown = [Signs(lanes=(lane(),))]
    server = HealthServer(
        "127.0.0.1",
        0,
        signs=lambda: shown[0],
        metrics=lambda: b"a 1\n",
        dead=why_dead,
        unready=why_not_ready,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
            assert client.get("/livez").json()["alive"] is True
            assert client.get("/readyz").status_code == 200
            assert client.get("/metrics").text == "a 1\n"
            assert client.get("/nosuch").status_code == 404
            shown[0] = Signs(connected=False, lag_s=20)
            assert client.get("/livez").status_code == 503
            answer = client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["problems"] == ["no connection to the broker"]
    finally:
        server.close()


def test_a_port_in_use_is_a_clear_error():
    """CR-05: the text names the setting."""
    shown: dict[str, Any] = {
        "signs": Signs,
        "metrics": bytes,
        "dead": why_dead,
        "unready": why_dead,
    }
    first = HealthServer("127.0.0.1", 0, **shown)
    try:
        with pytest.raises(ConfigurationError, match="TASKYARD_METRICS_PORT"):
            HealthServer("127.0.0.1", first.port, **shown)
    finally:
        first.close()


@pytest.mark.parametrize(("starved_s", "dead"), [(29.0, False), (31.0, True)])
def test_a_consumer_that_starves_for_long_is_dead(starved_s, dead):
    """Pain 3: it was opened anew several times, and still gets nothing."""
    problems = why_dead(Signs(lanes=(LaneSigns(queue="mail", starved_s=starved_s),)))
    assert bool(problems) is dead
    assert all("mail: jobs are ready and none is delivered" in problem for problem in problems)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /livez?full HTTP/1.1\r\nHost: a\r\n\r\n", b"200 OK"),
        (b"GET /livez HTTP/1.0\n\n", b"200 OK"),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", b"200 OK"),
        (b"POST /livez HTTP/1.1\r\n\r\n", b"501 Not Implemented"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /livez\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400 Bad Request"),
        (b"", b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\nA: b", b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\n" + b"A: b\r\n" * 300, b"400 Bad Request"),
        (b"GET /livez HTTP/1.1\r\n\r\n" * 3, b"200 OK"),
        (b"GET /livez HTTP/1.1\r\nA: " + b"b" * 65_600, b"400 Bad Request"),
    ],
)
def test_any_request_gets_an_answer(request_: bytes, status: bytes) -> None:
    """What is no request for something known is refused in HTTP's words, and the connection closed."""
    server = HealthServer(
        "127.0.0.1", 0, signs=Signs, metrics=bytes, dead=why_dead, unready=why_dead
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").readline() == b"HTTP/1.0 " + status + b"\r\n"
    finally:
        server.close()


def test_a_request_may_come_byte_by_byte() -> None:
    """Cut anywhere, also within the empty line that ends it."""
    server = HealthServer(
        "127.0.0.1", 0, signs=Signs, metrics=bytes, dead=why_dead, unready=why_dead
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"GET /livez HTTP/1.1\r\nA: b\r\n\r\n":
                client.sendall(bytes([byte]))
            assert client.makefile("rb").readline() == b"HTTP/1.0 200 OK\r\n"
    finally:
        server.close()


def test_a_client_that_trickles_does_not_hold_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request as a whole has its time, however often a byte of it comes."""
    monkeypatch.setattr(health, "_PATIENCE_S", 0.3)
    server = HealthServer(
        "127.0.0.1", 0, signs=Signs, metrics=bytes, dead=why_dead, unready=why_dead
    )
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as client:
            client.sendall(b"GET /livez HTTP/1.1\r\n")
            assert 0 < _trickled(client) < 100
    finally:
        server.close()


def _trickled(client: socket.socket) -> int:
    """Send a byte every 0.1 s, at most 100, until the server hangs up; return how many."""
    for number in range(100):
        try:
            return number if client.recv(1) == b"" else -1
        except TimeoutError:
            with suppress(ConnectionError):  # it is received next
                client.sendall(b"a")
        except ConnectionError:
            return number
    return 100


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_ipv6_is_listened_on() -> None:
    """Where a cluster has no other addresses."""
    server = HealthServer("::1", 0, signs=Signs, metrics=bytes, dead=why_dead, unready=why_dead)
    try:
        assert httpx.get(f"http://[::1]:{server.port}/livez").status_code == 200
    finally:
        server.close()
