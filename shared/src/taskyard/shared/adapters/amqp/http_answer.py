"""An answer of HTTP/1: its status and its body, however it says where that ends."""

from __future__ import annotations

import asyncio
from typing import Final

#: Bytes read at once.
_PIECE: Final = 64 * 1024


async def read_answer(reader: asyncio.StreamReader, *, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body of an answer.

    Args:
        reader: gives it.
        timeout_s: how long it may stop, in seconds.

    Raises:
        ValueError: it is not HTTP, or was cut.
        EOFError: it was cut.
        LimitOverrunError: its head is endless.
        TimeoutError: it stopped for too long.

    """
    async with asyncio.timeout(timeout_s):
        head = await reader.readuntil(b"\r\n\r\n")
    status, fields = _read_head(head.decode("latin-1"))
    if "transfer-encoding" in fields:  # chunked is the only one that whoever names none may get
        return status, await _read_chunks(reader, timeout_s)
    length = int(fields["content-length"]) if "content-length" in fields else None
    body = await _read(reader, length, timeout_s)
    if length is not None and len(body) < length:
        raise ValueError(f"the answer was cut: {len(body)} of {length} bytes")
    return status, body


def _read_head(head: str) -> tuple[int, dict[str, str]]:
    """Return the status of an answer and its fields, their names in small letters."""
    first, *lines = head.split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/") or not status.isdecimal():
        raise ValueError(f"{first[:80]!r} is no answer of HTTP")
    split = (line.partition(":") for line in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in split}


async def _read_chunks(reader: asyncio.StreamReader, timeout_s: float) -> bytes:
    body = bytearray()
    while True:
        async with asyncio.timeout(timeout_s):
            size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if size == 0:
            return bytes(body)  # what may follow are fields that nobody asked for
        piece = await _read(reader, size + 2, timeout_s)  # a chunk, and the end of its line
        if len(piece) < size + 2:
            raise ValueError(f"the answer was cut after {len(body) + len(piece)} bytes")
        body += piece[:size]


async def _read(reader: asyncio.StreamReader, size: int | None, timeout_s: float) -> bytes:
    """Return what comes, up to a size or else to its end; each piece may take its time."""
    body = bytearray()
    while size is None or len(body) < size:
        async with asyncio.timeout(timeout_s):
            piece = await reader.read(_PIECE if size is None else min(size - len(body), _PIECE))
        if not piece:
            break
        body += piece
    return bytes(body)
