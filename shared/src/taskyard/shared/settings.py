"""What can be set for a process (`TASKYARD_…`): names, types, defaults, bounds and what they mean.

This is the one definition. `settings_reader.py` makes pydantic's model from it, which reads the
environment and judges; that is loaded when settings are read, and a value of them needs none of it.
A variable may also be given as a file (`TASKYARD_BROKER_URL_FILE`), for mounted secrets.
"""
# ruff: noqa: RUF009  # what `setting` returns is a field

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from taskyard.shared.broker import BrokerOptions
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.keyring import NO_KEYS, KeyRing, parse_keys
from taskyard.shared.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX: Final = "TASKYARD_"

#: What `taskyard up` and the demo fall back to; nothing else has a default broker.
EMBEDDED_BROKER_URL: Final = "sqlite:///.taskyard/broker.db"


#: AMQP spells a heartbeat in 16 bits.
HEARTBEAT_MAX_S: Final = 65_535
#: A record carries an output in one message, of which RabbitMQ takes 16 MiB and closes the channel
#: over more; in JSON a byte may become six.
OUTPUT_MAX_BYTES: Final = 1024 * 1024


def setting(default: Any, *, description: str, **bounds: float) -> Any:
    """Define a setting, its bounds in pydantic's words (`ge`, `gt`, `le`)."""
    return field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True, init=False)
class Settings:
    """Everything that can be set for a process. Durations are in seconds, sizes in bytes."""

    broker_url: Secret[str] | None = setting(
        None,
        description="Where jobs go: amqp://, amqps:// (a comma list for a cluster), sqlite:///path. "
        "No default.",
    )
    management_url: Secret[str] | None = setting(
        None,
        description="RabbitMQ's management API, for verify and stats; guessed from BROKER_URL.",
    )
    ledger_url: Secret[str] | None = setting(
        None,
        description="The ledger's database: postgresql://user:password@host/name or sqlite:///path.",
    )
    ledger_keep_succeeded: float = setting(
        7 * 86_400.0,
        ge=0,
        description="How long the ledger keeps jobs that succeeded or were cancelled; 0: not at all.",
    )
    ledger_keep_failed: float = setting(
        30 * 86_400.0,
        ge=0,
        description="How long the ledger keeps jobs that failed; 0: not at all.",
    )
    ledger_rows_succeeded: int | None = setting(
        None, ge=0, description="Most jobs that the ledger keeps that succeeded or were cancelled."
    )
    ledger_rows_failed: int | None = setting(
        None, ge=0, description="Most jobs that the ledger keeps that failed."
    )
    namespace: str = setting(
        "taskyard", description="Prefix of everything that Taskyard owns on a broker."
    )
    encryption_keys: Secret[str] | None = setting(
        None,
        description="Keys for encrypted arguments, ID:BASE64 of 32 bytes each, in a comma list: the "
        "first encrypts, all decrypt.",
    )
    app: str = setting("", description="Name of the application that publishes.")
    mode: Literal["queue", "eager"] = setting(
        "queue", description="eager runs each job inline when it is sent, for tests."
    )
    concurrency: int = setting(
        10, ge=1, le=10_000, description="Slots per queue in a worker process."
    )
    grace: float = setting(
        30.0, ge=0, description="How long a stopping worker lets running jobs finish."
    )
    publish_deadline: float = setting(
        10.0, gt=0, description="How long a publish may take before it is reported as timed out."
    )
    unconfirmed_cap: int = setting(
        16 * 1024 * 1024, ge=1024, description="Most bytes of bodies in flight without a confirm."
    )
    spool_url: str | None = setting(
        None,
        description="Where a producer keeps jobs while the broker takes none: sqlite:///path.",
    )
    spool_limit: int = setting(
        256 * 1024 * 1024, ge=1024, description="Most bytes that a producer keeps in its spool."
    )
    payload_limit: int = setting(
        1024 * 1024, ge=1, description="Largest encoded arguments of one job, refused at send."
    )
    heartbeat: float = setting(10.0, ge=1, le=HEARTBEAT_MAX_S, description="Broker heartbeat.")
    lock_heartbeat: float = setting(
        4.0, ge=1, le=HEARTBEAT_MAX_S, description="Heartbeat of locks."
    )
    consumer_timeout: float = setting(
        1800.0,
        ge=60,
        description="RabbitMQ's consumer_timeout, where the worker cannot set it itself.",
    )
    metrics_host: str = setting("127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    metrics_port: int = setting(
        9464,
        ge=0,
        le=65535,
        description="Port of /metrics, /livez and /readyz; 0 takes a free one.",
    )
    console_port: int = setting(8080, ge=0, le=65535, description="Port of the web console.")
    log_format: Literal["json", "console"] = setting("json", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", description="Least level logged."
    )
    log_file: Path | None = setting(None, description="Log to this file instead of standard error.")
    output: Literal["all", "failed", "none"] = setting(
        "failed",
        description="Whose output the ledger keeps (what jobs print and log), where their queue "
        "does not say: of all attempts, of those that fail, of none.",
    )
    output_limit: int = setting(
        64 * 1024,
        ge=0,
        le=OUTPUT_MAX_BYTES,
        description="Most bytes of one attempt's output that are kept.",
    )
    record: Literal["all", "failures", "none"] = setting(
        "all",
        description="Which jobs the ledger records of queues that do not say so themselves; read by "
        "`broker apply` and `up`.",
    )
    record_arguments: Literal["full", "redacted", "none"] = setting(
        "full",
        description="What the ledger records of their arguments: all, their names, nothing; likewise.",
    )
    http_allow: str = setting(
        "",
        description="What http.request may reach: a comma list of hosts, *.domains and URL "
        "prefixes; * is the whole public internet. Empty: the task is disabled.",
    )
    shell_allow: str = setting(
        "",
        description="Commands that shell.run may run: a comma list of names or absolute paths. "
        "Empty: the task is disabled.",
    )
    shell_env: str = setting(
        "",
        description="Variables of the worker that the commands of shell.run get: a comma list of "
        "names. Empty: none.",
    )
    state_dir: Path = setting(
        Path(".taskyard"), description="Folder for what a process must keep over a restart."
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment; `values` override it.

        Raises:
            ConfigurationError: a variable is not valid; the text names it.

        """
        from taskyard.shared.settings_reader import read

        self._take(read(values))

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """Return settings that have been read before: `values` are all of them, and valid."""
        made = cls.__new__(cls)
        made._take(values)
        return made

    def but(self, **changes: object) -> Self:
        """Return the same settings but for some, whose new values are not judged."""
        if unknown := changes.keys() - vars(self):
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        return self.of({**vars(self), **changes})

    def _take(self, values: Mapping[str, object]) -> None:
        for name in NAMES:
            object.__setattr__(self, name, values[name])

    def require_broker_url(self) -> str:
        """Return the broker's URL.

        Raises:
            ConfigurationError: it is not set.

        """
        if self.broker_url is None:
            msg = (
                "TASKYARD_BROKER_URL is not set; set it, for example to "
                "amqp://user:password@host:5672/ or to sqlite:///.taskyard/broker.db"
            )
            raise ConfigurationError(msg)
        return self.broker_url.reveal()

    def key_ring(self) -> KeyRing:
        """Return the keys for encrypted arguments, an empty ring where none are set.

        Raises:
            ConfigurationError: they are not valid, or the library for them is not installed.

        """
        keys = self.encryption_keys
        text = "" if keys is None else keys.reveal()
        return parse_keys(text) if text.strip() else NO_KEYS

    def broker_options(self, role: str) -> BrokerOptions:
        """Return what an adapter is opened with by a process in `role` (worker, producer, …)."""
        return BrokerOptions(
            consumer_timeout_s=self.consumer_timeout,
            namespace=self.namespace,
            connection_name=f"taskyard {role}" + (f" {self.app}" if self.app else ""),
            heartbeat_s=self.heartbeat,
            unconfirmed_cap_bytes=self.unconfirmed_cap,
            lock_heartbeat_s=self.lock_heartbeat,
            management_url=None if self.management_url is None else self.management_url.reveal(),
        )


#: Of all settings, in the order of their definition.
NAMES: Final = tuple(each.name for each in fields(Settings))


def variables(names: Iterable[str]) -> dict[str, str]:
    """Return those of the named variables of this process that are set, to be handed on."""
    return {name: os.environ[name] for name in names if name in os.environ}


def listed(text: str) -> list[str]:
    """Return the entries of a comma list."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]
