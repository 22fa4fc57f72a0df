"""A spool: jobs in a local SQLite file that the broker could not take, until it can.

It is a queue of its own on the embedded broker, so that what that promises holds here: several
processes may use one file, writes share their commits, and what a dead process had taken comes
back at once. Each entry is a whole envelope, as it was to be published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import msgspec

from taskyard.shared.broker import BrokerOptions, QueueSpec, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.envelope import Envelope
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.topology import plan

if TYPE_CHECKING:
    from taskyard.shared.broker import Broker

#: The one queue of a spool, and the namespace that keeps it apart from a broker in the same file.
QUEUE: Final = "pending"
NAMESPACE: Final = "spool"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolState:
    """What is in a spool.

    Attributes:
        pending: jobs that wait for the broker.
        refused: jobs that the broker has refused since, kept for a human.
        oldest_ms: when the first of `pending` was spooled; None when there is none.

    """

    pending: int
    refused: int
    oldest_ms: int | None


def spool_exists(url: str) -> bool:
    """Tell whether the file of a spool is there; opening one that is not would make it.

    Raises:
        ConfigurationError: the URL is not that of a file.

    """
    connect_spool(url)
    return Path(unquote(urlsplit(url).path.removeprefix("/"))).exists()


def connect_spool(url: str) -> Broker:
    """Return a handle on the spool that a URL names, not yet open.

    Args:
        url: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`. Each write is flushed to
            the disk, unless the URL says `?synchronous=normal`.

    Raises:
        ConfigurationError: the URL is not that of a file.

    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        msg = (
            f"spool {url!r}: a spool is a local file, sqlite:///relative/path.db or "
            "sqlite:////absolute/path.db"
        )
        raise ConfigurationError(msg)
    careful = url if parts.query else f"{url}?synchronous=full"
    return connect(careful, BrokerOptions(namespace=NAMESPACE, connection_name="taskyard spool"))


async def prepare(store: Broker) -> None:
    """Create what an open spool needs in its file, where it is missing."""
    spec = SetupSpec(queues=(QueueSpec(name=QUEUE),))
    observed = await store.observe(spec)
    actions = plan(store.desired(spec, observed), observed)
    if actions:
        await store.apply(actions)


async def survey(store: Broker) -> SpoolState:
    """Count what is in an open spool."""
    stats = (await store.stats([QUEUE]))[QUEUE]
    return SpoolState(
        pending=stats.ready + (stats.unsettled or 0),
        refused=stats.parked,
        oldest_ms=stats.oldest_ms,
    )


def wrap(envelope: Envelope) -> Envelope:
    """Return the entry for an envelope."""
    return Envelope(id=envelope.id, queue=QUEUE, task=QUEUE, body=_encode(envelope))


def unwrap(entry: Envelope) -> Envelope:
    """Return the envelope of an entry.

    Raises:
        UNREADABLE (of `envelope`): it is none, or damaged.

    """
    return _decode(entry.body)
