"""The fixtures, as a test of the product uses them; and what happens without RabbitMQ."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pika
import pytest

from support.broker import BrokerUnderTest
from support.roots import ROOTS_VARIABLE, find_root, installed_roots
from support.server import given_server, vhost_of
from support.targets import URL_VARIABLE, rabbitmq_targets

REPOSITORY = Path(__file__).resolve().parents[2]


def is_usable(broker: BrokerUnderTest) -> bool:
    if broker.kind == "sqlite":
        with sqlite3.connect(broker.url.removeprefix("sqlite:///")) as database:
            return bool(database.execute("SELECT 1").fetchone())
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    connection.close()
    return True


def test_a_broker_for_each_kind(broker_url: BrokerUnderTest) -> None:
    """A test that asks for a broker runs once on each, and each is there."""
    assert is_usable(broker_url)
    assert broker_url.version_tuple >= (3, 10)


def test_a_shared_broker_cannot_be_broken(broker_url: BrokerUnderTest) -> None:
    """Killing a broker that other tests use is refused in words."""
    if broker_url.kind == "sqlite":
        broker_url.kill_broker_blocking()
    else:
        with pytest.raises(RuntimeError, match="breaks_broker"):
            broker_url.kill_broker_blocking()
    assert is_usable(broker_url)


@pytest.mark.breaks_broker
async def test_a_marked_test_may_kill_its_broker(broker_url: BrokerUnderTest) -> None:
    """It gets a private node, whose virtual host survives kill and restart."""
    await broker_url.kill_broker()
    assert is_usable(broker_url)
    await broker_url.restart_broker()
    assert is_usable(broker_url)


def test_a_server_given_by_url_is_used(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable set, that server is the only one; its version is asked of it."""
    monkeypatch.setenv(URL_VARIABLE, amqp_url)
    targets = rabbitmq_targets(private=False)
    assert [(target.kind, target.url) for target in targets] == [("given", amqp_url)]
    server = given_server(amqp_url)
    assert server.version_tuple >= (3, 10)
    assert vhost_of(server.url_of("a/b")) == "a/b"


def run_pytest(tmp_path: Path, **environment: str) -> str:
    """Run one test that needs RabbitMQ in a run of its own, and return its report."""
    name = "test_broker_fixtures.py::test_a_broker_for_each_kind"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs"]
    hidden = {"PATH", "CI", ROOTS_VARIABLE, URL_VARIABLE}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "run"), f"{Path(__file__).parent}/{name}"],
        cwd=REPOSITORY,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


HIDE = "import support.roots as r; r._SCRIPT_PLACES = ()"


@pytest.fixture
def no_rabbitmq(tmp_path: Path) -> str:
    """An import path whose start-up hook hides the installed RabbitMQ from a test run."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "hide_rabbitmq.py").write_text(HIDE + "\n")
    return str(hook)


def test_without_rabbitmq_a_laptop_skips_loudly(tmp_path: Path, no_rabbitmq: str) -> None:
    """The tests are skipped, the SQLite half runs, and the report says so in a section."""
    path = os.pathsep.join([no_rabbitmq, str(REPOSITORY / "tests")])
    report = run_pytest(tmp_path, PYTHONPATH=path, PYTEST_PLUGINS="hide_rabbitmq")
    assert "1 passed, 1 skipped" in report
    assert "NOT TESTED ON RABBITMQ" in report


def test_without_rabbitmq_ci_fails(tmp_path: Path, no_rabbitmq: str) -> None:
    """Where CI is set, a missing RabbitMQ is a failure."""
    path = os.pathsep.join([no_rabbitmq, str(REPOSITORY / "tests")])
    report = run_pytest(tmp_path, PYTHONPATH=path, PYTEST_PLUGINS="hide_rabbitmq", CI="1")
    assert "1 passed, 1 error" in report


def test_roots_are_listed_from_the_environment(tmp_path: Path) -> None:
    """Folders are named in one variable; one without RabbitMQ in it is an error that says so."""
    folder = tmp_path / "root"
    (folder / "usr/lib/rabbitmq/bin").mkdir(parents=True)
    (folder / "usr/lib/rabbitmq/bin/rabbitmq-server").touch()
    roots = installed_roots({ROOTS_VARIABLE: f"9.9={folder}"})
    assert (roots[-1].name, roots[-1].folder) == ("9.9", folder)
    assert roots[-1].outside("/etc") == folder / "etc"
    assert roots[-1].argv("x")[1:] == [str(folder), "x"]
    for wrong in ("nonsense", f"9.9={tmp_path}"):
        with pytest.raises(ValueError, match="NAME=FOLDER"):
            installed_roots({ROOTS_VARIABLE: wrong})
    with pytest.raises(LookupError, match="installed"):
        find_root("none such")
