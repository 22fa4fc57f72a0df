"""Which URLs a job may name, and which addresses it may reach: pure judgements.

A worker often stands where its senders cannot reach: a job must not become their way in. Only what
the allow-list names is reached, and nothing where it is empty. A host that is named may have a
private address; what only `*` lets through must have an address of the public internet. Link-local
addresses, where clouds keep their machines' credentials, are reached only if they are named as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

from taskyard.shared.errors import ConfigurationError

Address = IPv4Address | IPv6Address
#: Networks whose addresses end with one of version 4: "compatible" ones, and translators' (RFC 6052).
_EMBEDDING = (ip_network("::/96"), ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/96"))
_LAST_32 = (1 << 32) - 1
_PORTS = {"http": 80, "https": 443}
#: What may stand in a path or a query as it is; everything else is escaped.
_SAFE = "/?:@!$&'()*+,;=~%-._"


class NotAllowed(Exception):  # named for what it says, as it is shown to people
    """A URL or an address that this worker does not reach."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    Attributes:
        scheme: `http` or `https`.
        host: in lower case, without brackets.
        port: given, or the scheme's.
        path: as given, at least `/`.
        query: without its question mark.

    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def authority(self) -> str:
        """Host and port, the port only where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL for people: without credentials, and without a query, which may hold some."""
        return f"{self.scheme}://{self.authority}{self.path}"


def read_url(url: str) -> Target:
    """Return where a URL leads (ValueError when it is no absolute http or https URL)."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        msg = "the URL must begin with http:// or https:// and name a host"
        raise ValueError(msg)
    if parts.username is not None:
        msg = "the URL must hold no credentials; send a header Authorization"
        raise ValueError(msg)
    host = parts.hostname.rstrip(".")
    return Target(
        scheme=parts.scheme,
        host=host if host.isascii() else host.encode("idna").decode(),
        port=parts.port or _PORTS[parts.scheme],
        path=quote(parts.path or "/", safe=_SAFE),
        query=quote(parts.query, safe=_SAFE),
    )


@dataclass(frozen=True, slots=True)
class AllowList:
    """What may be reached.

    Attributes:
        hosts: names and addresses; `*.x` means every name below x.
        prefixes: URLs that a URL must begin with.
        public: whether everything on the public internet is allowed.

    """

    hosts: tuple[str, ...] = ()
    prefixes: tuple[Target, ...] = ()
    public: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing is allowed, so that the task is disabled."""
        return not (self.hosts or self.prefixes or self.public)

    def check(self, target: Target) -> None:
        """Refuse a URL that the list does not name.

        Raises:
            NotAllowed: it does not.

        """
        if self.empty:
            msg = (
                "http.request is disabled here: nothing is allowed; name what jobs may reach "
                "(TASKYARD_HTTP_ALLOW, a comma list, or add_to(queue, allow=[…])), then release the job"
            )
            raise NotAllowed(msg)
        if not self.public and not self._named(target):
            msg = f"{target.shown} is not on the list of what http.request may reach here"
            raise NotAllowed(msg)

    def reachable(self, target: Target, addresses: Sequence[str]) -> list[str]:
        """Return those of a host's addresses that may be reached.

        Raises:
            NotAllowed: none may.

        """
        named = self._named(target)
        found = [a for a in addresses if self._reaches(ip_address(a.partition("%")[0]), named)]
        if not found:
            msg = (
                f"{target.shown} leads to {', '.join(addresses)}, which http.request does not reach "
                "here unless its operator names it"
            )
            raise NotAllowed(msg)
        return found

    def _named(self, target: Target) -> bool:
        return any(
            target.host.endswith(entry[1:]) if entry.startswith("*.") else target.host == entry
            for entry in self.hosts
        ) or any(_begins(target, prefix) for prefix in self.prefixes)

    def _reaches(self, address: Address, named: bool) -> bool:
        plain = _inner(address)
        literals = {*self.hosts, *(prefix.host for prefix in self.prefixes)}
        if str(plain) in literals or str(address) in literals:
            return True
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
            return False
        return named or plain.is_global


def read_list(entries: Sequence[str]) -> AllowList:
    """Read an allow-list: hosts (`api.shop.example`, `*.shop.example`, `10.1.2.3`), URL prefixes, `*`.

    Raises:
        ConfigurationError: an entry is neither.

    """
    hosts: list[str] = []
    prefixes: list[Target] = []
    public = False
    for entry in (entry.strip() for entry in entries):
        try:
            if entry == "*":
                public = True
            elif "://" in entry:
                prefixes.append(read_url(entry))
            else:
                hosts.append(_host(entry.lower()))
        except ValueError as error:
            msg = f"{entry!r} cannot be allowed: {error}; name a host, *.domain, URL prefix, or *"
            raise ConfigurationError(msg) from error
    return AllowList(hosts=tuple(hosts), prefixes=tuple(prefixes), public=public)


def _host(entry: str) -> str:
    name = entry.removeprefix("*.")
    if not name or any(c in name for c in "/*@ ") or (":" in name and not _is_address(name)):
        msg = "it is no host name"
        raise ValueError(msg)
    return str(ip_address(name)) if _is_address(name) else entry


def _inner(address: Address) -> Address:
    """Return the address of version 4 that one of version 6 stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    for prefix in _EMBEDDING:
        if address in prefix and int(address) & _LAST_32 > 1:  # not :: and ::1 themselves
            return IPv4Address(int(address) & _LAST_32)
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _begins(target: Target, prefix: Target) -> bool:
    if (target.scheme, target.host, target.port) != (prefix.scheme, prefix.host, prefix.port):
        return False
    if ".." in unquote(target.path).replace("\\", "/").split("/"):
        return False
    return target.path == prefix.path or target.path.startswith(prefix.path.rstrip("/") + "/")
