"""The task `http.request`: a job that is a request to somebody else's server.

    from taskyard.workers.builtin import requests

    request = requests.add_to(queue, allow=["https://api.shop.example/hooks/"])
    producer.send(request, url="https://api.shop.example/hooks/paid", json={"order": 7})

Operators without Python name `taskyard.workers.builtin.http` instead. Needs `taskyard-workers[http]`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urljoin

from taskyard.shared.clock import SystemClock
from taskyard.shared.context import Context
from taskyard.shared.errors import ConfigurationError, InvalidArguments
from taskyard.shared.outcomes import Hold
from taskyard.workers.builtin.addresses import AllowList, NotAllowed, Target, read_list, read_url
from taskyard.workers.builtin.answers import (
    BODY_LIMIT_BYTES,
    Answer,
    ServerFailed,
    Unreachable,
    judge,
    text_of,
)

try:
    import httpx
except ImportError as _missing:
    _msg = "http.request needs httpx; install taskyard-workers[http]"
    raise ConfigurationError(_msg) from _missing

if TYPE_CHECKING:
    from taskyard.shared.duration import Duration
    from taskyard.shared.retry import RetryPolicy
    from taskyard.shared.task import Queue, Task

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

#: Seconds that a request may take unless its job says otherwise.
TTR_S: Final = 120.0
#: Most redirects that a job may ask to follow.
_MOST_REDIRECTS: Final = 20
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Not for another host than the one that the sender named.
_PRIVATE: Final = frozenset({"authorization", "cookie", "proxy-authorization"})

_clock: Final = SystemClock()


def add_to(
    queue: Queue[Any],
    *,
    allow: Sequence[str],
    name: str = "http.request",
    ttr: Duration = TTR_S,
    retry: RetryPolicy | None = None,
) -> Task[..., Answer]:
    """Declare `http.request` as a task of a queue.

    Args:
        queue: takes the task.
        allow: what it may reach: hosts, `*.domains`, URL prefixes, `*` (see `addresses`); empty
            disables it.
        name: of the task.
        ttr: time to run of one request (seconds or text).
        retry: the policy of the task; None takes the queue's.

    Raises:
        ConfigurationError: an entry of `allow` is not valid, or the name is taken.

    """
    return queue.add(_handler(read_list(allow)), name=name, ttr=ttr, retry=retry)


def _handler(allowed: AllowList) -> Callable[..., Coroutine[Any, Any, Answer]]:
    async def request(
        ctx: Context,
        url: str,
        *,
        method: Method = "GET",
        headers: dict[str, str] | None = None,
        json: Any = None,
        form: dict[str, str] | None = None,
        body: str | None = None,
        connect_timeout: float = 30.0,
        validate_ssl: bool = True,
        redirects: int = 0,
    ) -> Answer:
        """Send a request, and succeed if the answer is 2xx.

        Args:
            ctx: of the job.
            url: absolute.
            method: of the request.
            headers: more of them.
            json: sent as a JSON body, or
            form: sent as a form, or
            body: sent as it is.
            connect_timeout: seconds until the connection stands; the time to run ends the rest.
            validate_ssl: check the server's certificate.
            redirects: follow at most so many; each must be allowed.

        """
        content = _content(ctx, json, form, body)
        if not 0 <= redirects <= _MOST_REDIRECTS or connect_timeout <= 0:
            msg = f"redirects must be 0 to {_MOST_REDIRECTS}, connect_timeout above zero"
            raise InvalidArguments(ctx.task, msg)
        try:
            target = read_url(url)
        except ValueError as error:
            raise InvalidArguments(ctx.task, str(error)) from error
        async with httpx.AsyncClient(
            verify=_tls(validate_ssl),
            trust_env=False,
            timeout=httpx.Timeout(None, connect=connect_timeout),
        ) as client:
            asked = _Request(method, target, headers or {}, content)
            try:
                return await _follow(client, allowed, asked, redirects)
            except NotAllowed as refused:
                raise Hold(str(refused)) from refused

    return request


_Response = tuple[int, dict[str, str], bytes, bool, str | None]


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked; `content` is a body as httpx takes it."""

    method: str
    target: Target
    headers: Mapping[str, str]
    content: Mapping[str, Any]


def _content(
    ctx: Context, json: object, form: Mapping[str, str] | None, body: str | None
) -> Mapping[str, Any]:
    given = {"json": json, "data": form, "content": None if body is None else body.encode()}
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise InvalidArguments(ctx.task, "give one of json, form and body, not several")
    return found


async def _follow(
    client: httpx.AsyncClient, allowed: AllowList, request: _Request, redirects: int
) -> Answer:
    while True:
        status, found, body, cut, charset = await _ask(client, allowed, request)
        location = found.get("location")
        if status not in _REDIRECTS or location is None or redirects <= 0:
            break
        redirects -= 1
        request = _redirected(request, status, location)
    judge(request.target.shown, status, found, now_ms=_clock.now_ms())
    text, encoding = text_of(body, charset=charset, cut=cut)
    return Answer(status=status, headers=found, body=text, encoding=encoding, cut=cut)


def _redirected(request: _Request, status: int, location: str) -> _Request:
    """Return the request that a redirect asks for, without what only the first host may see."""
    before, method = request.target, request.method
    content: Mapping[str, Any] = request.content
    try:
        target = read_url(urljoin(before.shown, location))
    except ValueError as error:
        raise ServerFailed(f"{before.shown} redirects to no usable URL: {error}") from error
    if status == 303 or (status in (301, 302) and method == "POST"):
        method = "HEAD" if method == "HEAD" else "GET"
        content = dict[str, Any]()
    headers = request.headers
    if (target.scheme, target.authority) != (before.scheme, before.authority):
        headers = _without(headers, _PRIVATE)
    return _Request(method, target, headers, content)


async def _ask(client: httpx.AsyncClient, allowed: AllowList, request: _Request) -> _Response:
    """Ask at an address that was checked, and not at what the name means a moment later."""
    target = request.target
    allowed.check(target)
    problem = "it has no address"
    for address in allowed.reachable(target, await _resolve(target)):
        try:
            return await _answer(client, _built(client, request, address))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            problem = str(error) or type(error).__name__
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            raise Unreachable(f"{target.shown}: {said}") from error
    raise Unreachable(f"{target.shown} cannot be reached: {problem}")


def _built(client: httpx.AsyncClient, request: _Request, address: str) -> httpx.Request:
    target = request.target
    path = f"{target.path}?{target.query}" if target.query else target.path
    url = httpx.URL(scheme=target.scheme, host=address, port=target.port, raw_path=path.encode())
    return client.build_request(
        request.method,
        url,
        headers={
            "Accept-Encoding": "identity",  # so that the limit of the body is one of its bytes
            **_without(request.headers, {"host"}),
            "Host": target.authority,
        },
        extensions={"sni_hostname": target.host},
        **request.content,
    )


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> _Response:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                break
        found = {name.lower(): value for name, value in response.headers.items()}
        cut = len(body) > BODY_LIMIT_BYTES
        return (
            response.status_code,
            found,
            bytes(body[:BODY_LIMIT_BYTES]),
            cut,
            response.charset_encoding,
        )
    finally:
        await response.aclose()


async def _resolve(target: Target) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the host of {target.shown} is not known: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _without(headers: Mapping[str, str], names: AbstractSet[str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() not in names}


@lru_cache(maxsize=2)
def _tls(verify: bool) -> ssl.SSLContext:
    """Return what TLS is spoken with; made once, for it reads every authority's certificate."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
