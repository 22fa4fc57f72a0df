"""The broker port on RabbitMQ, over AMQP 0-9-1."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.shared.adapters.amqp.broker import AmqpBroker
    from taskyard.shared.broker import BrokerOptions


def connect(url: str, options: BrokerOptions | None = None) -> AmqpBroker:
    """Return a broker for an `amqp://` or `amqps://` URL, not yet open.

    Raises:
        ConfigurationError: the URL is not valid.

    """
    from taskyard.shared.adapters.amqp.broker import AmqpBroker

    return AmqpBroker(url, options)
