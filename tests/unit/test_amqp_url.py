"""Broker URLs: which nodes they name, and what is wrong with others, without their secrets."""

from __future__ import annotations

import ssl

import pytest

from taskyard.shared.adapters.amqp.url import Address, parse_url
from taskyard.shared.errors import ConfigurationError


def test_a_plain_url() -> None:
    """User, password and virtual host are percent-decoded."""
    (address,) = parse_url("amqp://us%40er:p%2Cw@broker:5673/my%2Fvhost")
    assert address == Address(
        host="broker", port=5673, vhost="my/vhost", user="us@er", password="p,w"
    )


@pytest.mark.parametrize("url", ["amqp://broker", "amqp://broker/", "amqp://broker/%2F"])
def test_defaults(url: str) -> None:
    """Port 5672, virtual host `/`, user guest."""
    (address,) = parse_url(url)
    assert (address.port, address.vhost, address.user) == (5672, "/", "guest")


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:p@one/v,amqp://u:p@two:5673/v",
        "amqp://u:p@one,two:5673/v",
        " amqp://u:p@one/v , amqp://u:p@two:5673/v ",
    ],
)
def test_a_comma_list_names_a_cluster(url: str) -> None:
    """Whole URLs, or further hosts behind the first."""
    one, two = parse_url(url)
    assert (one.host, one.port, two.host, two.port) == ("one", 5672, "two", 5673)
    assert one.vhost == two.vhost == "v"
    assert one.password == two.password == "p"


def test_an_ipv6_host() -> None:
    """Brackets as in any URL."""
    (address,) = parse_url("amqp://[::1]:5673/")
    assert (address.host, address.port) == ("::1", 5673)


def test_amqps_verifies_the_broker() -> None:
    """TLS checks certificate and name unless nothing was asked for at all (amqp)."""
    (address,) = parse_url("amqps://broker")
    assert address.port == 5671
    assert address.tls is not None
    assert address.tls.verify_mode is ssl.CERT_REQUIRED
    assert address.tls.check_hostname


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://x", "scheme is 'http'"),
        ("", "scheme is ''"),
        ("amqp://", "is not a host"),
        ("amqp://host:port", "is not a host"),
        ("amqp://u:s3cret@host/?no_verify_ssl=1", "unknown argument 'no_verify_ssl'"),
        ("amqps://u:s3cret@host/?cafile=/does/not/exist", "is not a file"),
        ("amqp://u:s3cret@host/?cafile=/does/not/exist", "needs the scheme amqps"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, words: str) -> None:
    """The text names the setting and never holds a secret (ZS-19)."""
    with pytest.raises(ConfigurationError, match="TASKYARD_BROKER_URL") as caught:
        parse_url(url)
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_an_address_keeps_its_password_to_itself() -> None:
    """Neither text nor representation shows it."""
    (address,) = parse_url("amqp://u:s3cret@host/v")
    assert "s3cret" not in f"{address} {address!r}"
