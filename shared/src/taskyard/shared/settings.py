"""Settings from the environment (`TASKYARD_…`); the only place that reads it.

A variable may also be given as a file (`TASKYARD_BROKER_URL_FILE`), for mounted secrets.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from taskyard.shared.broker import BrokerOptions
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.keyring import NO_KEYS, KeyRing, parse_keys
from taskyard.shared.naming import check_namespace

PREFIX: Final = "TASKYARD_"

#: What `taskyard up` and the demo fall back to; nothing else has a default broker.
EMBEDDED_BROKER_URL: Final = "sqlite:///.taskyard/broker.db"


#: AMQP spells a heartbeat in 16 bits.
HEARTBEAT_MAX_S: Final = 65_535


class Settings(BaseSettings):
    """Everything that can be set for a process. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False
    )

    broker_url: SecretStr | None = Field(
        None,
        description="Where jobs go: amqp://, amqps:// (a comma list for a cluster), sqlite:///path. "
        "No default.",
    )
    management_url: SecretStr | None = Field(
        None,
        description="RabbitMQ's management API, for verify and stats; guessed from BROKER_URL.",
    )
    ledger_url: SecretStr | None = Field(None, description="The ledger's database.")
    namespace: str = Field(
        "taskyard", description="Prefix of everything that Taskyard owns on a broker."
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="Keys for encrypted arguments, ID:BASE64 of 32 bytes each, in a comma list: the "
        "first encrypts, all decrypt.",
    )
    app: str = Field("", description="Name of the application that publishes.")
    mode: Literal["queue", "eager"] = Field(
        "queue", description="eager runs each job inline when it is sent, for tests."
    )
    concurrency: int = Field(
        10, ge=1, le=10_000, description="Slots per queue in a worker process."
    )
    grace: float = Field(
        30.0, ge=0, description="How long a stopping worker lets running jobs finish."
    )
    publish_deadline: float = Field(
        10.0, gt=0, description="How long a publish may take before it is reported as timed out."
    )
    unconfirmed_cap: int = Field(
        16 * 1024 * 1024, ge=1024, description="Most bytes of bodies in flight without a confirm."
    )
    spool_url: str | None = Field(
        None,
        description="Where a producer keeps jobs while the broker takes none: sqlite:///path.",
    )
    spool_limit: int = Field(
        256 * 1024 * 1024, ge=1024, description="Most bytes that a producer keeps in its spool."
    )
    payload_limit: int = Field(
        1024 * 1024, ge=1, description="Largest encoded arguments of one job, refused at send."
    )
    heartbeat: float = Field(10.0, ge=1, le=HEARTBEAT_MAX_S, description="Broker heartbeat.")
    lock_heartbeat: float = Field(4.0, ge=1, le=HEARTBEAT_MAX_S, description="Heartbeat of locks.")
    consumer_timeout: float = Field(
        1800.0,
        ge=60,
        description="RabbitMQ's consumer_timeout, where the worker cannot set it itself.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of /metrics, /livez and /readyz.")
    metrics_port: int = Field(
        9464,
        ge=0,
        le=65535,
        description="Port of /metrics, /livez and /readyz; 0 takes a free one.",
    )
    console_port: int = Field(8080, ge=0, le=65535, description="Port of the web console.")
    log_format: Literal["json", "console"] = Field("json", description="How log lines look.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level logged."
    )
    log_file: Path | None = Field(None, description="Log to this file instead of standard error.")
    http_allow: str = Field(
        "",
        description="What http.request may reach: a comma list of hosts, *.domains and URL "
        "prefixes; * is the whole public internet. Empty: the task is disabled.",
    )
    shell_allow: str = Field(
        "",
        description="Commands that shell.run may run: a comma list of names or absolute paths. "
        "Empty: the task is disabled.",
    )
    shell_env: str = Field(
        "",
        description="Variables of the worker that the commands of shell.run get: a comma list of "
        "names. Empty: none.",
    )
    state_dir: Path = Field(
        Path(".taskyard"), description="Folder for what a process must keep over a restart."
    )

    def __init__(self, **values: Any) -> None:
        """Read the environment; `values` override it.

        Raises:
            ConfigurationError: a variable is not valid; the text names it.

        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_explain(error)) from error
        for name, value in self:
            _require_text(name, value)
        check_namespace(self.namespace)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let `X_FILE` stand in for `X`; arguments win over files, files over variables."""
        del dotenv_settings, file_secret_settings
        return init_settings, _FileSource(settings_cls), env_settings

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
        return self.broker_url.get_secret_value()

    def key_ring(self) -> KeyRing:
        """Return the keys for encrypted arguments, an empty ring where none are set.

        Raises:
            ConfigurationError: they are not valid, or the library for them is not installed.

        """
        keys = self.encryption_keys
        text = "" if keys is None else keys.get_secret_value()
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
            management_url=None
            if self.management_url is None
            else self.management_url.get_secret_value(),
        )


class _FileSource(EnvSettingsSource):
    """Reads `TASKYARD_X_FILE` as the file that holds `TASKYARD_X`."""

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in Settings.model_fields:
            variable = f"{PREFIX}{name.upper()}_FILE"
            path = os.environ.get(variable)
            if path is None:
                continue
            try:
                found[name] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as error:
                msg = f"{variable}: {path} cannot be read: {error.strerror}"
                raise ConfigurationError(msg) from error
            except UnicodeDecodeError as error:
                raise ConfigurationError(f"{variable}: {path} is not text in UTF-8") from error
        return found


def variables(names: Iterable[str]) -> dict[str, str]:
    """Return those of the named variables of this process that are set, to be handed on."""
    return {name: os.environ[name] for name in names if name in os.environ}


def listed(text: str) -> list[str]:
    """Return the entries of a comma list."""
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _require_text(name: str, value: object) -> None:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str):
        try:
            text.encode()
        except UnicodeEncodeError:
            msg = f"{PREFIX}{name.upper()} is not text in UTF-8"
            raise ConfigurationError(msg) from None


def _explain(error: ValidationError) -> str:
    problems = [
        f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}"
        if problem["loc"]
        else problem["msg"]
        for problem in error.errors(include_input=False, include_url=False)
    ]
    return "; ".join(problems)
