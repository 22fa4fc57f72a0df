"""The first words of an AMQP 0-9-1 connection: is a server there, and which one."""

from __future__ import annotations

import re
import socket
import struct

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_FRAME_HEADER = struct.Struct(">BHI")


def server_version(host: str, port: int, *, timeout_s: float = 2.0) -> str | None:
    """Ask a server to introduce itself.

    Args:
        host: Address or name.
        port: TCP port.
        timeout_s: How long to wait for each answer, in seconds.

    Returns:
        The version that the server states in its `connection.start`, or None when nobody answers
        in AMQP.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(_PROTOCOL_HEADER)
            return _read_version(connection)
    except OSError:
        return None


def _read_version(connection: socket.socket) -> str | None:
    _, _, size = _FRAME_HEADER.unpack(_read_exactly(connection, _FRAME_HEADER.size))
    start = _read_exactly(connection, size)
    # A field table entry: the name, its length before it; type S; the length of the value.
    found = re.search(rb"\x07versionS(....)", start, re.DOTALL)
    if found is None:
        return None
    length = int.from_bytes(found.group(1), "big")
    return start[found.end() : found.end() + length].decode()


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the server closed the connection in the handshake")
        data += more
    return data
