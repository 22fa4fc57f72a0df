"""The components stay apart: what is installed together need not be imported together."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("shared", "producer", "broker_setup", "workers", "ledger")
COMMANDS = sorted(entry_points(group="taskyard.commands"), key=lambda point: point.name)
ROLES = sorted(entry_points(group="taskyard.roles"), key=lambda point: point.name)
ADAPTERS = sorted(entry_points(group="taskyard.brokers"), key=lambda point: point.name)


def loaded_by(module: str) -> set[str]:
    """Import a module in a fresh interpreter and list what that loaded."""
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_importable(component: str) -> None:
    """No component hides another: each is found under the one namespace."""
    assert f"taskyard.{component}" in loaded_by(f"taskyard.{component}")


def test_a_producer_loads_no_worker_and_no_database() -> None:
    """A service that only publishes pays for neither the worker nor a database driver (ZP-01)."""
    loaded = loaded_by("taskyard.producer")
    unwanted = {"taskyard.workers", "taskyard.broker_setup", "sqlalchemy", "uvloop", "aio_pika"}
    assert not loaded & unwanted


def test_tasks_are_declared_without_a_client() -> None:
    """A module that only declares queues and tasks opens no connection library."""
    loaded = loaded_by("taskyard.shared")
    assert not loaded & {"pika", "aio_pika", "sqlite3", "taskyard.producer"}


def test_every_component_is_typed() -> None:
    """Each component says to type checkers that it is annotated."""
    for component in COMPONENTS:
        assert (ROOT / component / "src/taskyard" / component / "py.typed").is_file()


@pytest.mark.parametrize("point", COMMANDS, ids=lambda point: point.name)
def test_every_command_resolves(point) -> None:
    """Each declared command exists, is a click command and describes itself."""
    command = point.load()
    assert isinstance(command, click.Command)
    assert command.get_short_help_str(), f"{point.name} has no help"


@pytest.mark.parametrize(
    "point", [*ROLES, *ADAPTERS], ids=lambda point: f"{point.group}:{point.name}"
)
def test_every_role_and_adapter_resolves(point) -> None:
    """What `up` and the broker URL can name exists."""
    assert callable(point.load())


def test_the_commands_are_those_that_the_design_names() -> None:
    """The command line has its fixed vocabulary, gathered from the components."""
    fixed = {
        "send", "worker", "up", "doctor", "jobs.cancel",
        "broker.plan", "broker.apply", "broker.verify",
        "queues.list", "queues.pause", "queues.resume",
        "parked.list", "parked.show", "parked.release", "parked.discard",
        "coordinator", "explain", "jobs.list", "jobs.show", "stats",
    }  # fmt: skip
    assert fixed <= {point.name for point in COMMANDS}
