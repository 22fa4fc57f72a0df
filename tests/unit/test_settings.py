"""Settings: from variables, from files, and errors that name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.secret import Secret
from taskyard.shared.settings import NAMES, Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"TASKYARD_{name.upper()}", raising=False)
        monkeypatch.delenv(f"TASKYARD_{name.upper()}_FILE", raising=False)


def test_the_broker_has_no_default() -> None:
    """Without a broker URL the error names the variable and shows what to write (ZS-19)."""
    with pytest.raises(ConfigurationError, match="TASKYARD_BROKER_URL is not set.*amqp://"):
        Settings().require_broker_url()


def test_defaults() -> None:
    """What the documentation promises."""
    settings = Settings()
    assert settings.namespace == "taskyard"
    assert settings.publish_deadline == 10
    assert settings.unconfirmed_cap == 16 * 1024 * 1024
    assert settings.payload_limit == 1024 * 1024
    assert (settings.concurrency, settings.grace, settings.heartbeat) == (10, 30, 10)
    assert (settings.metrics_port, settings.console_port) == (9464, 8080)
    assert settings.mode == "queue"


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting has its variable."""
    monkeypatch.setenv("TASKYARD_BROKER_URL", "sqlite:///x.db")
    monkeypatch.setenv("TASKYARD_PUBLISH_DEADLINE", "2.5")
    monkeypatch.setenv("TASKYARD_MODE", "eager")
    settings = Settings()
    assert settings.require_broker_url() == "sqlite:///x.db"
    assert settings.publish_deadline == 2.5
    assert settings.mode == "eager"


def test_an_argument_wins_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says counts more than what its environment says."""
    monkeypatch.setenv("TASKYARD_BROKER_URL", "sqlite:///x.db")
    assert Settings(broker_url="sqlite:///y.db").require_broker_url() == "sqlite:///y.db"


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`X_FILE` names a file that holds `X`, as secrets are mounted; it wins over the variable."""
    example = {
        "broker_url": "sqlite:///f.db", "management_url": "http://f/", "ledger_url": "sqlite:///l",
        "mode": "eager", "log_format": "console", "log_level": "debug", "log_file": "f.log",
        "state_dir": "f", "namespace": "fff", "app": "f", "metrics_host": "f",
        "encryption_keys": "k1:AAAA", "output": "all", "record": "none",
        "record_arguments": "none",
    }.get(name, "1024")  # fmt: skip
    file = tmp_path / "secret"
    file.write_text(f"{example}\n")
    monkeypatch.setenv(f"TASKYARD_{name.upper()}_FILE", str(file))
    found = getattr(Settings(), name)
    plain = found.reveal() if isinstance(found, Secret) else found
    assert str(plain) in {example, f"{example}.0"}


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that is not there says which variable asked for it."""
    monkeypatch.setenv("TASKYARD_BROKER_URL_FILE", "/nowhere/secret")
    with pytest.raises(ConfigurationError, match="TASKYARD_BROKER_URL_FILE: /nowhere/secret"):
        Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TASKYARD_CONCURRENCY", "0"),
        ("TASKYARD_CONCURRENCY", "many"),
        ("TASKYARD_MODE", "lazy"),
        ("TASKYARD_OUTPUT_LIMIT", "1048577"),
        ("TASKYARD_METRICS_PORT", "70000"),
        ("TASKYARD_LOG_LEVEL", "loud"),
        ("TASKYARD_PUBLISH_DEADLINE", "-1"),
        ("TASKYARD_NAMESPACE", "Not A Prefix"),
    ],
)
def test_a_wrong_value_names_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which variable to mend (ZS-19)."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        Settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is in neither repr nor errors."""
    monkeypatch.setenv("TASKYARD_BROKER_URL", "amqp://user:hunter2@host/")
    assert "hunter2" not in repr(Settings())
    monkeypatch.setenv("TASKYARD_CONCURRENCY", "0")
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_what_an_adapter_is_opened_with() -> None:
    """The role and the application are shown to the broker's operators."""
    options = Settings(app="shop", namespace="test", heartbeat=5).broker_options("producer")
    assert options.connection_name == "taskyard producer shop"
    assert (options.namespace, options.heartbeat_s) == ("test", 5)
