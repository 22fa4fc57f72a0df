"""What RabbitMQ's management API, or whatever listens in its place, may answer."""

from __future__ import annotations

import asyncio
import logging

import pytest

from taskyard.shared.adapters.amqp.management import Management, QueueInfo
from taskyard.shared.adapters.amqp.url import parse_url
from taskyard.shared.clock import SystemClock

QUEUE = b'{"name":"q","type":"quorum","messages_unacknowledged":3}'


async def asked(answer: bytes, *, stays: bool = False) -> tuple[QueueInfo | None, bytes]:
    """Ask a server that gives this answer; return what was made of it, and the request.

    One that `stays` leaves the connection open.
    """
    heard: list[bytes] = []
    served = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if stays:
            await reader.read()  # until whoever asked hangs up
        writer.close()
        served.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    addresses = parse_url("amqp://user:pass@127.0.0.1/shop%2F1")
    management = Management(addresses, f"http://127.0.0.1:{port}/proxied/", clock=SystemClock())
    async with server:
        found = await management.queue("a b")
        await asyncio.wait_for(served.wait(), 5)
        return found, heard[0]


async def test_an_answer_is_read_to_its_end() -> None:
    """The question names host, user and what it accepts; the answer ends with the connection."""
    found, request = await asked(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n" + QUEUE)
    assert found == QueueInfo(name="q", type="quorum", messages_unacknowledged=3)
    lines = request.decode().split("\r\n")
    assert lines[0] == "GET /proxied/api/queues/shop%2F1/a%20b HTTP/1.1"
    assert lines[1].startswith("Host: 127.0.0.1:")
    assert "Authorization: Basic dXNlcjpwYXNz" in lines


@pytest.mark.parametrize(
    "answer",
    [
        b"content-LENGTH: 56\r\n\r\n" + QUEUE,
        b"Transfer-Encoding: chunked\r\n\r\n"
         b"2\r\n" + QUEUE[:2] + b"\r\n1F;a=b\r\n" + QUEUE[2:33] + b"\r\n"
        + b"17\r\n" + QUEUE[33:] + b"\r\n0\r\nExpires: 0\r\n\r\n",
    ],
)  # fmt: skip
async def test_an_answer_ends_where_it_says(answer: bytes) -> None:
    """A proxy may pass it on in pieces, and keep the connection open."""
    found, _ = await asked(b"HTTP/1.1 200 OK\r\n" + answer, stays=True)
    assert found == QueueInfo(name="q", type="quorum", messages_unacknowledged=3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + QUEUE, "was cut: 56 of 99 bytes"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is no answer of HTTP"),
        (b"HTTP/1.1 2x\r\n\r\n", "is no answer of HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "bytes read"),
        (b"", "bytes read"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000, "limit"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + QUEUE, "invalid literal"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", "was cut after 2"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "bytes read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}\r\n", "invalid literal"),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", "not that of a management API"),
        (b"HTTP/1.1 500 Oops\r\n\r\nno luck", "no luck"),
    ],
)
async def test_what_is_no_answer_is_told(
    answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever else comes counts as no answer, and a log line says why."""
    with caplog.at_level(logging.WARNING):
        found, _ = await asked(answer)
    assert found is None
    assert reason in caplog.text


async def test_what_is_not_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """404 is an answer, and nothing to be told of."""
    found, _ = await asked(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")
    assert found is None
    assert not caplog.text
