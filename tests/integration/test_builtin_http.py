"""The task `http.request` against a real server, with and without TLS (ZS-05, ZS-13, ZS-17)."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from support.eventually import eventually
from support.ports import free_port
from support.workbench import Workbench
from taskyard.shared import Queue, Retry, RetryPolicy
from taskyard.workers.builtin import requests
from taskyard.workers.builtin.answers import BODY_LIMIT_BYTES, ServerFailed, Unreachable


class Server:
    """Answers what the path asks for: /STATUS, /job-status/…, /to/…, /big; notes what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        seen: list[dict[str, Any]] = []
        self.seen = seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                seen.append(
                    {
                        "method": self.command,
                        "path": self.path,
                        "headers": {k.lower(): v for k, v in self.headers.items()},
                        "body": self.rfile.read(length).decode(),
                    }
                )
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815  # the server's own names

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def answer(path: str) -> tuple[int, dict[str, str], bytes]:
    first, _, rest = path.lstrip("/").partition("/")
    if first == "job-status":
        return 200, {"X-Job-Queue-Status": rest.replace("+", " ")}, b"x"
    if first == "to":
        return 302, {"Location": f"/{rest}" if not rest.startswith("http") else rest}, b""
    if first == "big":
        return 200, {"Content-Type": "text/plain"}, b"a" * (BODY_LIMIT_BYTES + 1)
    if first == "later":
        return 429, {"Retry-After": "0"}, b""
    status = int(first) if first.isdigit() else 200
    return status, {"Content-Type": "text/plain"}, b"hello"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def tls_server(tmp_path) -> Iterator[Server]:
    """A server with a certificate that it signed itself."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "install openssl (scripts/ensure-rabbitmq does)"
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *command, *names, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = Server(context)
    yield made
    made.close()


class Bench(Workbench):
    """A workbench with `http.request` on a queue named http."""

    def __init__(self, folder, *, allow=("127.0.0.1",), attempts: int = 1) -> None:
        policy = RetryPolicy(attempts=attempts, first=0.05, factor=1, jitter="none")
        self.http = Queue("http", retry=policy)
        self.request = requests.add_to(self.http, allow=allow)
        super().__init__(self.http, folder=folder)

    async def end(self, **arguments: Any):
        """Send a request and return the record of its end."""
        (job_id,) = await self.send(self.request.job(**arguments))

        async def ended():
            records = await self.records(job_id)
            return [r for r in records if r.outcome in ("succeeded", "failed", "parked")]

        (record,) = await eventually(ended)
        return record


async def test_a_request_and_its_answer(tmp_path, server):
    """ZS-05, ZS-13: method, headers, JSON, form and raw body arrive; the body is the result."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        assert bench.request.name == "http.request"
        end = await bench.end(
            url=f"{server.url}/hooks?a=1", method="POST", json={"n": 1}, headers={"X-Shop": "7"}
        )
        assert end.outcome == "succeeded"
        value = json.loads(bytes(end.value))
        assert (value["status"], value["body"], value["encoding"]) == (200, "hello", "text")
        assert value["cut"] is False
        assert value["headers"]["content-type"] == "text/plain"
        (seen,) = server.seen
        assert (seen["method"], seen["path"]) == ("POST", "/hooks?a=1")
        assert json.loads(seen["body"]) == {"n": 1}
        assert seen["headers"]["x-shop"] == "7"
        assert seen["headers"]["host"] == server.url.partition("//")[2]
        await bench.end(url=server.url, method="PUT", form={"a b": "ü"})
        assert server.seen[1]["body"] == "a+b=%C3%BC"
        assert server.seen[1]["headers"]["content-type"] == "application/x-www-form-urlencoded"
        await bench.end(url=server.url, method="POST", body="<x/>")
        assert server.seen[2]["body"] == "<x/>"


async def test_a_long_body_is_cut_and_says_so(tmp_path, server):
    """ZS-05: a result travels with records and replies, so it is bounded."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        value = json.loads(bytes((await bench.end(url=f"{server.url}/big")).value))
        assert value["cut"] is True
        assert value["body"] == "a" * BODY_LIMIT_BYTES


async def test_what_fails_by_logic_is_final(tmp_path, server):
    """ZS-05, ZS-31: `X-Job-Queue-Status: 1 bad`, and answers that say that asking again is no use."""
    async with Bench(tmp_path, attempts=3) as bench:
        await bench.worker()
        for path, message in (
            ("/job-status/1+bad", "bad"),
            ("/job-status/1", "without a message"),
            ("/404", "answered 404"),
            ("/to/200", "not followed"),
        ):
            end = await bench.end(url=server.url + path)
            assert (end.outcome, end.detail, end.attempt) == ("failed", "logical", 1), path
            assert message in end.error.message
        assert (await bench.end(url=f"{server.url}/job-status/0")).outcome == "succeeded"


async def test_what_may_pass_is_tried_again(tmp_path, server):
    """ZS-05, ZS-43: 5xx, 429 and refused connections; by the policy, then parked with the reason."""
    async with Bench(tmp_path, attempts=2) as bench:
        await bench.worker()
        refused = f"http://127.0.0.1:{free_port()}/x"
        for url, kind, message in (
            (f"{server.url}/500", ServerFailed, "answered 500"),
            (f"{server.url}/later", Retry, "answered 429"),
            (refused, Unreachable, "cannot be reached"),
        ):
            end = await bench.end(url=url)
            assert (end.outcome, end.detail, end.attempt) == ("parked", "exhausted", 2), url
            assert end.error.type.rpartition(".")[2] == kind.__name__
            assert message in end.error.message


async def test_certificates_are_checked(tmp_path, tls_server):
    """ZS-17: a certificate that nobody vouches for fails, and passes where the job says so."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        end = await bench.end(url=tls_server.url)
        assert end.outcome == "parked"
        assert "CERTIFICATE_VERIFY_FAILED" in end.error.message
        assert not tls_server.seen
        end = await bench.end(url=tls_server.url, validate_ssl=False)
        assert end.outcome == "succeeded"


async def test_redirects_are_followed_only_where_they_may_go(tmp_path, server):
    """ZS-05: as many as the job says; each is checked, and the host's secrets stay with it."""
    other = Server()
    try:
        allow = [server.url + "/", other.url + "/200"]
        async with Bench(tmp_path, allow=allow) as bench:
            await bench.worker()
            headers = {"Authorization": "s", "X-Shop": "7"}
            end = await bench.end(
                url=f"{server.url}/to/{other.url}/200",
                redirects=1,
                method="POST",
                json={},
                headers=headers,
            )
            assert end.outcome == "succeeded"
            (seen,) = other.seen
            assert (seen["method"], seen["body"]) == ("GET", "")
            assert seen["headers"]["x-shop"] == "7"
            assert "authorization" not in seen["headers"]
            assert server.seen[0]["headers"]["authorization"] == "s"
            end = await bench.end(url=f"{server.url}/to/to/200", redirects=1)
            assert end.outcome == "failed"
            end = await bench.end(url=f"{server.url}/to/{other.url}/hidden", redirects=5)
            assert (end.outcome, end.detail) == ("parked", "held")
            assert len(other.seen) == 1
    finally:
        other.close()


async def test_it_is_off_unless_something_is_named(tmp_path, server):
    """ZS-05: without a list nothing is reached, and the job says what to set."""
    async with Bench(tmp_path, allow=()) as bench:
        await bench.worker()
        end = await bench.end(url=server.url)
        assert (end.outcome, end.detail) == ("parked", "held")
        (parking,) = await bench.parking("http")
        assert "http.request is disabled here" in parking.detail
        assert "TASKYARD_HTTP_ALLOW" in parking.detail
        assert not server.seen


async def test_the_public_internet_is_no_way_in(tmp_path, server):
    """ZS-05: where everything public is allowed no private address is reached."""
    async with Bench(tmp_path, allow=("*",)) as bench:
        await bench.worker()
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            end = await bench.end(url=url)
            assert (end.outcome, end.detail) == ("parked", "held")
        reasons = [parking.detail for parking in await bench.parking("http")]
        assert all("which http.request does not reach here" in reason for reason in reasons)
        assert not server.seen


async def test_wrong_arguments_are_parked(tmp_path, server):
    """ZS-05: two bodies, or no URL: invalid, with what is wrong."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        for arguments in (
            {"url": server.url, "body": "a", "json": 1},
            {"url": "nowhere"},
            {"url": server.url, "redirects": 99},
        ):
            end = await bench.end(**arguments)
            assert (end.outcome, end.detail) == ("parked", "invalid")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na"])
async def test_a_server_that_does_not_finish_is_given_up(tmp_path, answer):
    """ZS-05, LQ-07: silent, or slow in the middle: the time to run ends it, and closes the connection."""
    left = asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        left.set()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await stall(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Bench(tmp_path) as bench:
        await bench.worker()
        job = bench.request.job(url=f"http://127.0.0.1:{port}/").options(ttr=0.3)
        await bench.send(job)
        (parking,) = await eventually(lambda: bench.parking("http"))
        assert parking.reason == "exhausted"
        assert "time to run of 0.3 s" in parking.detail
        await eventually(left.is_set)
    server.close()
