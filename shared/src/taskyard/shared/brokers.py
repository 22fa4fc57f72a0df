"""From a broker URL to its adapter; third parties add adapters by entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from taskyard.shared import entry_points
from taskyard.shared.broker import BrokerOptions
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskyard.shared.broker import Broker

GROUP: Final = "taskyard.brokers"


def connect(url: str, options: BrokerOptions | None = None) -> Broker:
    """Return the adapter for a URL, not yet open.

    Args:
        url: for example `amqp://user:password@host/vhost` (a comma list for a cluster) or
            `sqlite:///path`.
        options: namespace, heartbeat and the like.

    Raises:
        ConfigurationError: no adapter is installed for the URL's scheme, or it refuses the URL.

    """
    scheme = urlsplit(url.split(",", 1)[0]).scheme
    make = cast("Callable[[str, BrokerOptions], Broker] | None", entry_points.load(GROUP, scheme))
    if make is None:
        known = ", ".join(sorted(entry_points.names_of(GROUP)))
        msg = f"TASKYARD_BROKER_URL: no adapter for scheme {scheme!r} (installed: {known})"
        raise ConfigurationError(msg)
    return make(url, options or BrokerOptions())
