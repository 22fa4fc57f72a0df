"""A link that is given up while it connects."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from typing import Any

import pytest

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
