"""What Compose would start, started as processes on a real RabbitMQ."""

from __future__ import annotations

import http.client
from functools import partial
from pathlib import Path

import pytest

from deploy.files import COMPOSE, interpolated, load
from support.eventually import eventually_blocking
from support.fixtures import StartTaskyard
from support.ports import free_port

pytestmark = [pytest.mark.system]

SERVICES = load(COMPOSE)["services"]


def environment_of(name: str, folder: Path, port: int) -> dict[str, str]:
    """A service's variables, with what is the container's own moved to this machine."""
    variables = {
        variable: interpolated(str(value))
        for variable, value in SERVICES[name]["environment"].items()
    }
    return variables | {
        "TASKYARD_BROKER_URL_FILE": str(folder / "broker_url"),
        "TASKYARD_METRICS_HOST": "127.0.0.1",
        "TASKYARD_METRICS_PORT": str(port),
        "TASKYARD_STATE_DIR": str(folder / "state"),
    }


def status(port: int, path: str) -> int:
    """Return the status of a probe, 0 while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    """Whether a worker takes jobs."""
    return status(port, "/readyz") == 200


def test_set_up_then_two_workers(taskyard: StartTaskyard, amqp_url: str, tmp_path: Path) -> None:
    """The one-shot ends with 0, two workers become ready, do a job, and stop with 0 on SIGTERM."""
    (tmp_path / "broker_url").write_text(f"{amqp_url}\n")
    port = free_port()
    setup = taskyard(
        *map(interpolated, SERVICES["setup"]["command"]),
        env=environment_of("setup", tmp_path, port),
    )
    assert setup.wait_exit_blocking(within=60) == 0, setup.output

    command = [interpolated(word) for word in SERVICES["worker"]["command"]]
    ports = [port, free_port()]
    workers = [taskyard(*command, env=environment_of("worker", tmp_path, each)) for each in ports]
    for each in ports:
        eventually_blocking(partial(is_ready, each), within=60, hint="ready")
        assert status(each, "/livez") == 200

    send = taskyard(
        "send", "default:test:hello", "--wait", env=environment_of("worker", tmp_path, port)
    )
    assert send.wait_exit_blocking(within=60) == 0, send.output
    assert "hello" in send.output
    for worker in workers:
        worker.terminate()
    for worker in workers:
        assert worker.wait_exit_blocking(within=40) == 0, worker.output
