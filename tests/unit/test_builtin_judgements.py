"""What http.request may reach, and what an answer means: pure judgements (ZS-05, ZS-43)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from taskyard.shared import ConfigurationError, Fail, Retry
from taskyard.workers.builtin.addresses import NotAllowed, read_list, read_url
from taskyard.workers.builtin.answers import ServerFailed, judge, text_of, wait_of

URL = "https://api.shop.example/hooks/paid"


@pytest.mark.parametrize(
    ("entries", "url", "allowed"),
    [
        (["*"], URL, True),
        (["*"], "http://10.0.0.1/", True),  # refused by its address, below
        (["api.shop.example"], URL, True),
        (["API.shop.example"], "https://Api.Shop.Example/x", True),
        (["*.shop.example"], URL, True),
        (["*.shop.example"], "https://shop.example/", False),
        (["*.shop.example"], "https://evilshop.example/", False),
        (["other.example"], URL, False),
        (["https://api.shop.example/hooks"], URL, True),
        (["https://api.shop.example/hooks/"], URL, True),
        (["https://api.shop.example/hooks/"], "https://api.shop.example/hooksx", False),
        (["https://api.shop.example/hooks/"], "https://api.shop.example/Hooks/a", False),
        (["https://api.shop.example/hooks/"], "https://api.shop.example/hooks/../admin", False),
        (["https://api.shop.example/hooks/"], "https://api.shop.example/hooks/%2e%2E/a", False),
        (["https://api.shop.example/hooks/"], "https://api.shop.example/hooks%2f..%2fa", False),
        (["https://api.shop.example/hooks/"], "http://api.shop.example/hooks/a", False),
        (["https://api.shop.example:8443/"], "https://api.shop.example/", False),
        (["10.1.2.3"], "http://10.1.2.3:8080/", True),
    ],
)
def test_urls_are_allowed_by_host_or_prefix(entries: list[str], url: str, allowed: bool) -> None:
    """ZS-05: an allow-list names hosts, everything below a domain, or what URLs begin with."""
    check = read_list(entries).check
    if allowed:
        check(read_url(url))
    else:
        with pytest.raises(NotAllowed, match="not on the list"):
            check(read_url(url))


@pytest.mark.parametrize(
    ("entries", "address", "reached"),
    [
        (["*"], "93.184.216.34", True),
        (["*"], "127.0.0.1", False),
        (["*"], "10.0.0.1", False),
        (["*"], "169.254.169.254", False),
        (["*"], "::1", False),
        (["*"], "fe80::1%eth0", False),
        (["*"], "::ffff:127.0.0.1", False),
        (["*"], "::ffff:169.254.169.254", False),
        (["*"], "0.0.0.0", False),
        (["*"], "::127.0.0.1", False),
        (["*"], "64:ff9b::a9fe:a9fe", False),
        (["*"], "64:ff9b:1::7f00:1", False),
        (["*"], "2002:7f00:1::", False),
        (["*"], "fd00::1", False),
        (["*"], "::", False),
        (["*"], "100.64.0.1", False),
        (["*"], "64:ff9b::5db8:d822", True),
        (["*", "other.example"], "10.0.0.1", False),
        (["*", "api.shop.example"], "10.0.0.1", True),
        (["https://api.shop.example/"], "10.0.0.1", True),
        (["api.shop.example"], "10.0.0.1", True),
        (["api.shop.example"], "127.0.0.1", True),
        (["api.shop.example"], "169.254.169.254", False),
        (["api.shop.example"], "::ffff:169.254.169.254", False),
        (["api.shop.example"], "224.0.0.1", False),
        (["169.254.169.254"], "169.254.169.254", True),
        (["http://169.254.169.254/latest/"], "169.254.169.254", True),
    ],
)
def test_addresses_that_are_reached(entries: list[str], address: str, reached: bool) -> None:
    """ZS-05: `*` is the public internet only; link-local addresses only where they are named."""
    reachable = read_list(entries).reachable
    if reached:
        assert reachable(read_url(URL), [address]) == [address]
    else:
        with pytest.raises(NotAllowed, match="does not reach"):
            reachable(read_url(URL), [address])
        assert reachable(read_url(URL), [address, "93.184.216.34"]) == ["93.184.216.34"]


def test_nothing_named_is_disabled() -> None:
    """ZS-05: an empty list refuses everything, and says what to set."""
    with pytest.raises(NotAllowed, match="disabled here.*TASKYARD_HTTP_ALLOW"):
        read_list([]).check(read_url(URL))


@pytest.mark.parametrize(
    "entry", ["", "a b", "a/b", "**", "*.", "a:80", "ftp://a/", "http://u:p@a/"]
)
def test_what_is_no_entry(entry: str) -> None:
    """ZS-05: a wrong allow-list stops the worker, in words."""
    with pytest.raises(ConfigurationError, match="cannot be allowed"):
        read_list([entry])


@pytest.mark.parametrize("url", ["", "/x", "ftp://a/", "http:///x", "http://u:p@a/", "http://a:x/"])
def test_what_is_no_url(url: str) -> None:
    """ZS-05: only absolute http and https URLs without credentials."""
    with pytest.raises(ValueError):
        read_url(url)


def test_a_url_is_shown_without_its_query() -> None:
    """Texts about a request hold no query, which may be a secret."""
    target = read_url("http://Bücher.example:8080/ä?token=1 2#part")
    assert target.shown == "http://xn--bcher-kva.example:8080/%C3%A4"
    assert target.query == "token=1%202"


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, None),
        (204, {"x-job-queue-status": "0"}, None),
        (200, {"x-job-queue-status": "10 green bottles"}, None),
        (200, {"x-job-queue-status": "1 bad"}, (Fail, "^bad$")),
        (200, {"x-job-queue-status": "1"}, (Fail, "says that it failed")),
        (500, {}, (ServerFailed, "answered 500")),
        (503, {}, (ServerFailed, "answered 503")),
        (503, {"retry-after": "7"}, (Retry, "answered 503")),
        (429, {}, (Retry, "answered 429")),
        (408, {}, (Retry, "answered 408")),
        (425, {}, (Retry, "answered 425")),
        (404, {}, (Fail, "answered 404")),
        (401, {"retry-after": "7"}, (Fail, "answered 401")),
        (302, {"location": "/login?s=1"}, (Fail, r"\(to /login\), not followed")),
    ],
)
def test_what_an_answer_means(status, headers, expected) -> None:
    """ZS-05, ZS-31, ZS-43: success, final, later, or to be tried again by the policy."""
    if expected is None:
        judge(URL, status, headers, now_ms=0)
        return
    kind, text = expected
    with pytest.raises(kind, match=text):
        judge(URL, status, headers, now_ms=0)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("", None),
        ("soon", None),
        ("7", 7.0),
        ("999999999", 86_400.0),
        ("-1", None),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:01:00 -0000", 50.0),
    ],
)
def test_how_long_to_wait(value: str, wait_s: float | None) -> None:
    """ZS-05: `Retry-After` in seconds or as a date, bounded by a day."""
    assert wait_of(value, now_ms=10_000) == wait_s


@given(st.text())
def test_any_retry_after_is_borne(value: str) -> None:
    """A server's nonsense is no delay, and no error."""
    wait_s = wait_of(value, now_ms=0)
    assert wait_s is None or 0 <= wait_s <= 86_400


def test_bodies_are_text_where_they_can_be() -> None:
    """ZS-05: in their charset; a character cut in half stays text; the rest is base64."""
    assert text_of("ä".encode(), charset=None, cut=False) == ("ä", "text")
    assert text_of("ä".encode("latin-1"), charset="latin-1", cut=False) == ("ä", "text")
    assert text_of("aä".encode()[:-1], charset=None, cut=True) == ("a", "text")
    assert text_of(b"\xff\x00\x01\x02\x03", charset=None, cut=False) == ("/wABAgM=", "base64")
    assert text_of(b"a", charset="no-such", cut=False) == ("YQ==", "base64")
