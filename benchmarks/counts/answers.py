"""What a broker answers while a client connects and sets itself up. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pika import spec

_PROPERTIES: Final = {
    "product": "RabbitMQ",
    "version": "4.3.0",
    "cluster_name": "peer",
    "capabilities": dict.fromkeys(
        (
            "publisher_confirms",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "per_consumer_qos",
        ),
        True,
    ),
}

#: The first method of a connection, sent by the broker.
GREETING: Final = spec.Connection.Start(0, 9, _PROPERTIES, "PLAIN", "en_US")
_FRAME_MAX: Final = 131072

_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    spec.Connection.StartOk: lambda _: spec.Connection.Tune(2047, _FRAME_MAX, 0),
    spec.Connection.Open: lambda _: spec.Connection.OpenOk(),
    spec.Connection.Close: lambda _: spec.Connection.CloseOk(),
    spec.Channel.Open: lambda _: spec.Channel.OpenOk(),
    spec.Channel.Close: lambda _: spec.Channel.CloseOk(),
    spec.Confirm.Select: lambda _: spec.Confirm.SelectOk(),
    spec.Basic.Qos: lambda _: spec.Basic.QosOk(),
    spec.Basic.Cancel: lambda asked: spec.Basic.CancelOk(asked.consumer_tag),
    spec.Basic.Consume: lambda asked: spec.Basic.ConsumeOk(asked.consumer_tag),
    spec.Queue.Declare: lambda asked: spec.Queue.DeclareOk(asked.queue, 0, 0),
}


def answer_to(asked: Any, *, feed: bool) -> Any:
    """Return the answer to a method, or None: it wants none.

    Args:
        asked: by the client.
        feed: whether the lifecycle feed exists; every other queue does.

    """
    if isinstance(asked, spec.Queue.Declare) and asked.queue.endswith(".ledger") and not feed:
        return spec.Channel.Close(404, "NOT_FOUND", 50, 10)
    answer = _PLAIN.get(type(asked))
    return None if answer is None else answer(asked)
