"""From a broker URL to the connections that it allows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from taskyard.shared.errors import ConfigurationError

SETTING: Final = "TASKYARD_BROKER_URL"

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_QUERY: Final = frozenset({"cafile", "certfile", "keyfile"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One node of a broker, and how to log in there.

    Attributes:
        host: name or IP address.
        port: of AMQP.
        vhost: the virtual host.
        user: to log in with.
        password: of that user; kept out of every text.
        tls: present for `amqps`; verifies the broker's certificate and its name.

    """

    host: str
    port: int
    vhost: str
    user: str
    password: str
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        """Name the node without its secret."""
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        """Keep the password out of tracebacks."""
        return f"Address({self.user}@{self}{self.vhost})"


def parse_url(url: str) -> tuple[Address, ...]:
    """Return the nodes that a URL names, in its order.

    Args:
        url: `amqp://user:password@host:port/vhost`; further nodes after commas, either as whole
            URLs or as `host:port` behind the first; `amqps` takes `?cafile=&certfile=&keyfile=`.

    Raises:
        ConfigurationError: it is not such a URL; the text holds no secret.

    """
    parts = [part.strip() for part in url.split(",") if part.strip()]
    if parts and all("://" in part for part in parts):
        return tuple(address for part in parts for address in _parse_one(part))
    return _parse_one(url.strip())


def _parse_one(url: str) -> tuple[Address, ...]:
    split = urlsplit(url)
    if split.scheme not in _PORTS:
        raise ConfigurationError(f"{SETTING}: the scheme is {split.scheme!r}, not amqp or amqps")
    login, _, hosts = split.netloc.rpartition("@")
    user, _, password = login.partition(":")
    tls = _context(split)
    vhost = unquote(split.path[1:]) or "/"
    return tuple(
        Address(
            host=host,
            port=port,
            vhost=vhost,
            user=unquote(user) or "guest",
            password=unquote(password) if login else "guest",
            tls=tls,
        )
        for host, port in (_host(text, split.scheme) for text in hosts.split(","))
    )


def _host(text: str, scheme: str) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{text.strip()}")
        host, port = split.hostname, split.port
    except ValueError:
        host = port = None
    if not host:
        raise ConfigurationError(f"{SETTING}: {text!r} is not a host, or host:port")
    return host, port or _PORTS[scheme]


def _context(split: SplitResult) -> ssl.SSLContext | None:
    query = dict(parse_qsl(split.query))
    unknown = sorted(query.keys() - _QUERY)
    if unknown:
        raise ConfigurationError(
            f"{SETTING}: unknown argument {unknown[0]!r} (known: {', '.join(sorted(_QUERY))})"
        )
    if split.scheme != "amqps":
        if query:
            raise ConfigurationError(f"{SETTING}: {min(query)!r} needs the scheme amqps")
        return None
    for name, value in query.items():
        if not Path(value).is_file():
            raise ConfigurationError(f"{SETTING}: {name} {value!r} is not a file")
    try:
        context = ssl.create_default_context(cafile=query.get("cafile"))
        if certfile := query.get("certfile"):
            context.load_cert_chain(certfile, query.get("keyfile"))
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{SETTING}: the certificates cannot be used: {error}") from error
    return context
