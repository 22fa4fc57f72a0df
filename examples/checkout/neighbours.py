"""The shop's neighbours, small but real: a card company over HTTP and an SMTP server that keeps mail.

Both run on one event loop in a thread of the demo, on loopback and free ports.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from email import message_from_bytes
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

#: Shares of requests that the card company declines (by order), stalls on, or answers with 503.
DECLINED, SLOW, BUSY = 0.05, 0.02, 0.06
SLOW_S = 0.4


def is_declined(order_id: int) -> bool:
    """Tell whether this order's card is bad; the same each time it is asked."""
    return random.Random(order_id).random() < DECLINED


class Neighbours:
    """Starts both servers on entry and stops them on exit."""

    def __init__(self, seed: int) -> None:
        """Prepare; `seed` decides when the card company is slow or busy."""
        self.mails: list[tuple[int, str]] = []
        self.requests = 0
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="neighbours", daemon=True
        )
        self.card_company_url = ""
        self.smtp_port = 0

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    async def _start(self) -> None:
        http = await asyncio.start_server(self._card_company, "127.0.0.1", 0)
        smtp = await asyncio.start_server(self._smtp, "127.0.0.1", 0)
        self.card_company_url = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
        self.smtp_port = smtp.sockets[0].getsockname()[1]

    async def _card_company(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer POST /authorise over HTTP/1.1, many requests to a connection."""
        try:
            while head := await _head(reader):
                length = next(
                    (
                        int(line[15:])
                        for line in head
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                order = json.loads(await reader.readexactly(length))
                status, answer = await self._authorise(int(order["order"]))
                body = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a worker went away in mid-request, as workers do
        finally:
            writer.close()

    async def _authorise(self, order_id: int) -> tuple[str, dict[str, str]]:
        self.requests += 1
        chance = self._rng.random()
        if chance < BUSY:
            return "503 Service Unavailable", {"error": "busy"}
        if chance < BUSY + SLOW:
            await asyncio.sleep(SLOW_S)
        if is_declined(order_id):
            return "402 Payment Required", {"error": "declined"}
        return "200 OK", {"authorisation": f"A{order_id:07d}"}

    async def _smtp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take mail by the part of RFC 5321 that smtplib speaks."""
        writer.write(b"220 sink\r\n")
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"DATA":
                    writer.write(b"354 go on\r\n")
                    message = message_from_bytes(await reader.readuntil(b"\r\n.\r\n"))
                    self.mails.append((int(message["X-Shop-Order"]), str(message["X-Shop-Kind"])))
                writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                await writer.drain()
                if verb == b"QUIT":
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # as above
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    except asyncio.IncompleteReadError:
        return []
