"""Why a connection ended or could not be made, in words."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pika.exceptions

from taskyard.shared.adapters.amqp.url import SETTING
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from taskyard.shared.adapters.amqp.connection import Connection
    from taskyard.shared.adapters.amqp.url import Address


def in_words(connection: Connection | None, error: Exception) -> str:
    """Return the broker's own words where it closed the connection, else the first cause."""
    if connection is not None and connection.closed_by_broker is not None:
        code, text = connection.closed_by_broker
        return f"{text} ({code})"
    cause = _cause(error)
    return str(cause) or repr(cause)


def _cause(error: BaseException) -> BaseException:
    """Return what pika wrapped, possibly several times."""
    while True:
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
        if inner is None and isinstance(error, pika.exceptions.AMQPConnectionError):
            inner = error.args[:1]
        if isinstance(inner, (list, tuple)):
            inner = inner[-1] if inner else None
        if not isinstance(inner, BaseException):
            return error
        error = inner


def untrusted(address: Address, error: BaseException) -> ConfigurationError | None:
    """Return what is to be mended when a node's certificate was the reason."""
    cause = _cause(error)
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return None
    return ConfigurationError(
        f"{SETTING}: the certificate of {address} cannot be trusted: {cause.verify_message} "
        "(name its authority with ?cafile=)"
    )
