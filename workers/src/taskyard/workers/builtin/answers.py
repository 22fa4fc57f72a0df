"""What an answer to a request means for its job: pure judgements."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypedDict

from taskyard.shared.outcomes import Fail, Retry

#: Most bytes of a body that are kept: its JSON text still travels in a result.
BODY_LIMIT_BYTES: Final = 128 * 1024
#: The longest that a server may ask us to wait, in seconds.
LONGEST_WAIT_S: Final = 86_400.0
#: Said by an application whose own logic failed, though its answer is 2xx.
STATUS_HEADER: Final = "x-job-queue-status"
_FAILED = re.compile(r"1(?:\s+(?P<message>.*))?", re.DOTALL)
#: Answers that say "later", though they are 4xx: timeout, too early, too many requests.
_LATER: Final = frozenset({408, 425, 429})


class HttpError(Exception):
    """A request failed in a way that may pass: it is tried again by the policy, then parked."""


class Unreachable(HttpError):
    """The URL could not be reached: no such host, refused, no certificate, broken off."""


class ServerFailed(HttpError):
    """The server answered that it failed (5xx)."""


class Answer(TypedDict):
    """The result of `http.request`.

    Keys:
        status: the answer's, 2xx.
        headers: in lower case; those that came several times joined by commas.
        body: as text, or as base64 if it is none.
        encoding: which of both.
        cut: whether only the first 128 KiB of the body are here.
    """

    status: int
    headers: dict[str, str]
    body: str
    encoding: Literal["text", "base64"]
    cut: bool


def judge(shown: str, status: int, headers: Mapping[str, str], *, now_ms: int) -> None:
    """Return if an answer is a success, and raise what else it means.

    Args:
        shown: the URL for people.
        status: of the answer.
        headers: of the answer, names in lower case.
        now_ms: the instant, in milliseconds since the epoch.

    Raises:
        Fail: it is final (redirects that are not followed included).
        Retry: the server says when to come back, or to come back.
        ServerFailed: it is to be tried again by the policy.

    """
    if 200 <= status < 300:
        said = _FAILED.fullmatch(headers.get(STATUS_HEADER, "").strip())
        if said is not None:
            raise Fail(said["message"] or f"{shown} says that it failed, without a message")
        return
    text = f"{shown} answered {status}"
    wait_s = wait_of(headers.get("retry-after", ""), now_ms=now_ms)
    if status in _LATER or (status == 503 and wait_s is not None):
        raise Retry(text, delay=wait_s)
    if status >= 500:
        raise ServerFailed(text)
    if 300 <= status < 400:
        text += f" (to {headers.get('location', 'nowhere').partition('?')[0]}), not followed"
    raise Fail(text)


def wait_of(value: str, *, now_ms: int) -> float | None:
    """Return how long a `Retry-After` asks us to wait, in seconds; None when it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_WAIT_S)
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        wait_s = when.timestamp() - now_ms / 1000
    except (ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)


def text_of(
    body: bytes, *, charset: str | None, cut: bool
) -> tuple[str, Literal["text", "base64"]]:
    """Return a body as text in its charset (UTF-8 if it names none), or else as base64."""
    try:
        return body.decode(charset or "utf-8"), "text"
    except LookupError:
        return base64.b64encode(body).decode(), "base64"
    except UnicodeDecodeError as error:
        if cut and len(body) - error.start < 4:  # a character cut in half is no binary
            return body[: error.start].decode(charset or "utf-8"), "text"
        return base64.b64encode(body).decode(), "base64"
