"""RabbitMQ's management HTTP API, as far as AMQP itself cannot tell: what exists, and who holds it.

It is optional: where it is absent or refuses us, each question is answered with None, and whoever
asks falls back to what AMQP can tell. Its counters lag by up to five seconds.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from taskyard.shared.adapters.amqp.http_answer import read_answer
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.adapters.amqp.url import Address
    from taskyard.shared.clock import Clock

_log = get_logger(__name__)

SETTING: Final = "TASKYARD_MANAGEMENT_URL"

#: How old its counters may be: a queue tells them every five seconds unless the broker is set to
#: tell them less often (`collect_statistics_interval`).
LAG_S: Final = 6.0

_TIMEOUT_S: Final = 3.0
#: How long a management API that did not answer is left alone.
_RETRY_S: Final = 30.0
_PAGE: Final = 500
_PORTS: Final = {False: ("http", 15672), True: ("https", 15671)}

T = TypeVar("T")


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as the management API shows it; counters are None before it has gathered them."""

    name: str
    type: str = "classic"
    durable: bool = True
    exclusive: bool = False
    arguments: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    effective_policy_definition: Any = None
    messages_unacknowledged: int | None = None

    @property
    def policy(self) -> dict[str, Any]:
        """What policies add to its arguments."""
        found = self.effective_policy_definition
        return found if isinstance(found, dict) else {}  # some versions show none as []


class ExchangeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange as the management API shows it."""

    name: str
    type: str
    durable: bool = True
    arguments: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class BindingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A binding as the management API shows it."""

    source: str
    destination: str
    destination_type: str
    routing_key: str = ""
    arguments: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class _Node(msgspec.Struct, frozen=True):
    name: str


class _Page(msgspec.Struct, frozen=True):
    items: msgspec.Raw
    page_count: int = 1


class Management:
    """Questions about one virtual host, to whichever node answers."""

    def __init__(self, addresses: Sequence[Address], url: str | None, *, clock: Clock) -> None:
        """Prepare to ask.

        Args:
            addresses: of the broker's nodes; without `url` their usual ports are tried, with the
                same user and password.
            url: of the management API, `http(s)://[user:password@]host:port[/path]`.
            clock: for how long a failure is remembered.

        """
        self._bases = [_Base.at(url, addresses[0])] if url else [_Base.guess(a) for a in addresses]
        self._given = url is not None
        self._vhost = quote(addresses[0].vhost, safe="")
        self._clock = clock
        self._silent_until_s = 0.0

    async def queues(self, prefix: str) -> list[QueueInfo] | None:
        """Return the queues whose name starts with `prefix`."""
        columns = (
            "name,type,durable,exclusive,arguments,"
            "effective_policy_definition,messages_unacknowledged"
        )
        return await self._paged("queues", prefix, columns, list[QueueInfo])

    async def exchanges(self, prefix: str) -> list[ExchangeInfo] | None:
        """Return the exchanges whose name starts with `prefix`."""
        return await self._paged(
            "exchanges", prefix, "name,type,durable,arguments", list[ExchangeInfo]
        )

    async def bindings(self, prefix: str) -> list[BindingInfo] | None:
        """Return the bindings between what starts with `prefix`."""
        found = await self._get(f"bindings/{self._vhost}", list[BindingInfo])
        if found is None:
            return None
        return [
            each
            for each in found
            if each.source.startswith(prefix) and each.destination.startswith(prefix)
        ]

    async def queue(self, name: str) -> QueueInfo | None:
        """Return one queue, or None if it is not there either."""
        return await self._get(f"queues/{self._vhost}/{quote(name, safe='')}", QueueInfo)

    async def nodes(self) -> list[str] | None:
        """Return the names of the cluster's nodes."""
        found = await self._get("nodes?columns=name", list[_Node])
        return None if found is None else [node.name for node in found]

    async def _paged(
        self, kind: str, prefix: str, columns: str, type_: type[list[T]]
    ) -> list[T] | None:
        gathered: list[T] = []
        page = pages = 1
        while page <= pages:
            query = urlencode(
                {
                    "page": page,
                    "page_size": _PAGE,
                    "name": f"^{re.escape(prefix)}",
                    "use_regex": "true",
                    "pagination": "true",
                    "columns": columns,
                }
            )
            found = await self._get(f"{kind}/{self._vhost}?{query}", _Page)
            if found is None:
                return None
            gathered += msgspec.json.decode(found.items, type=type_)
            pages = found.page_count
            page += 1
        return gathered

    async def _get(self, path: str, type_: type[T]) -> T | None:
        if self._clock.monotonic_s() < self._silent_until_s:
            return None
        for base in tuple(self._bases):
            status, body = await base.fetch(path)
            if status == 404:
                return None
            if status == 200:
                if base is not self._bases[0]:  # the one that answers is asked first
                    self._bases.remove(base)
                    self._bases.insert(0, base)
                try:
                    return msgspec.json.decode(body, type=type_)
                except msgspec.DecodeError:
                    body = b"the answer is not that of a management API"
            level = _log.warning if self._given else _log.debug
            level("management API not usable", at=base.place, reason=body.decode(errors="replace"))
        self._silent_until_s = self._clock.monotonic_s() + _RETRY_S
        return None


class _Base:
    """One place where the API may be."""

    def __init__(
        self, *, secure: bool, host: str, port: int | None, path: str, login: str, tls: Any
    ) -> None:
        scheme, usual = _PORTS[secure]
        self._host = host
        self._port = port or usual
        self._path = path
        self._tls = (tls or True) if secure else None
        self.place = f"{scheme}://{host}:{self._port}{path}"
        login = base64.b64encode(login.encode()).decode()
        name = f"[{host}]" if ":" in host else host
        self._headers = (
            f"Host: {name}:{self._port}",
            f"Authorization: Basic {login}",
            "Accept: application/json",
            "Connection: close",
        )

    @classmethod
    def at(cls, url: str, address: Address) -> _Base:
        split = urlsplit(url)
        if split.scheme not in {"http", "https"}:
            raise ConfigurationError(
                f"{SETTING}: the scheme is {split.scheme!r}, not http or https"
            )
        user = unquote(split.username) if split.username else address.user
        password = unquote(split.password) if split.password else address.password
        return cls(
            secure=split.scheme == "https",
            host=split.hostname or address.host,
            port=split.port,
            path=split.path.rstrip("/").removesuffix("/api"),
            login=f"{user}:{password}",
            tls=address.tls,
        )

    @classmethod
    def guess(cls, address: Address) -> _Base:
        return cls(
            secure=address.tls is not None,
            host=address.host,
            port=None,
            path="",
            login=f"{address.user}:{address.password}",
            tls=address.tls,
        )

    async def fetch(self, path: str) -> tuple[int, bytes]:
        """Ask, and return status and body; (0, why) when nobody answers."""
        try:
            return await self._ask(f"{self._path}/api/{path}")
        except TimeoutError:
            return 0, b"no answer in time"
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            return 0, str(error).encode()

    async def _ask(self, path: str) -> tuple[int, bytes]:
        """Ask once, on a connection of its own.

        The standard library's client would need a thread, and 2 MiB of modules to read any header.
        HTTP/1.0 would have no pieces, but there are proxies that refuse it.
        """
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            lines = [f"GET {path} HTTP/1.1", *self._headers, "", ""]
            writer.write("\r\n".join(lines).encode())
            return await read_answer(reader, timeout_s=_TIMEOUT_S)
        finally:
            writer.close()
