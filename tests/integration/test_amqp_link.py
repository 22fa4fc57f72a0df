"""A link that is given up while it connects."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from typing import Any

import psutil
import pytest
from pika.adapters.utils import io_services_utils

from support.eventually import eventually
from taskyard.shared.adapters.amqp.link import Link
from taskyard.shared.adapters.amqp.url import Address


@pytest.mark.parametrize("listens", [True, False], ids=["mute", "closed"])
@pytest.mark.parametrize("turns", range(16))
def test_no_socket_is_left_behind(turns: int, listens: bool) -> None:
    """Cancelled at any turn of the loop, which ends when `open` has returned: no socket is left open,
    and pika does not stumble. The server takes connections and never answers, or is not there.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = Address(host="127.0.0.1", port=port, vhost="/", user="guest", password="guest")
        if not listens:
            server.close()
        failures: list[dict[str, Any]] = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            asyncio.run(_given_up(address, turns, failures))
            gc.collect()
        assert [str(warning.message) for warning in warned] == []
        assert failures == []


async def _given_up(address: Address, turns: int, failures: list[dict[str, Any]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    opening = asyncio.create_task(Link([address], name="given up").open(deadline_s=10.0))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_a_peer_that_is_gone_at_once_is_tried_again_at_once(monkeypatch) -> None:
    """Reset between connect and the next turn of the loop, as by a proxy or a node that restarts: pika
    raises into the loop, and neither the link waits for its time-out nor is the socket left open.
    """
    failures = 0
    honest = io_services_utils._AsyncStreamConnector.__init__

    def gone(self: Any, *, sock: socket.socket, **more: Any) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise ValueError("Expected connected socket, but getpeername() failed")
        honest(self, sock=sock, **more)

    monkeypatch.setattr(io_services_utils._AsyncStreamConnector, "__init__", gone)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = Address(host="127.0.0.1", port=port, vhost="/", user="guest", password="guest")
        opening = asyncio.create_task(Link([address], name="reset").open(deadline_s=10.0))
        await eventually(lambda: failures == 3, within=5)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await eventually(lambda: _sockets_to(port) == 0)


def _sockets_to(port: int) -> int:
    ours = psutil.Process().net_connections()
    return sum(bool(at.raddr) and at.raddr[1] == port for at in ours)
