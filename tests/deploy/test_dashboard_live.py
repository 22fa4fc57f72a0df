"""The dashboard's queries answer with data when a real Prometheus has scraped a real worker."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.files import OBSERVABILITY, load
from deploy.prometheus import Query, program, queries
from support.eventually import eventually_blocking
from support.fixtures import StartTaskyard
from support.ports import free_port
from support.process import Program

pytestmark = [pytest.mark.system, pytest.mark.slow]

MODULE = "taskyard.workers.selftest"
#: Panels that stay empty here: there is no RabbitMQ, nothing failed for good, nothing is published
#: by the worker itself.
MAY_BE_EMPTY = {
    "Failed, parked and retried, by task",
    "Publish to confirm",
    "Published, by outcome",
}


class Prometheus:
    """A Prometheus of this test, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/query?query="

    def ask(self, expression: str) -> list[dict]:
        """Return the result of a query."""
        url = self._url + urllib.parse.quote(expression)
        with urllib.request.urlopen(url, timeout=10) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        result: list[dict] = body["data"]["result"]
        return result

    def has(self, expression: str) -> bool:
        """Whether a query has a result; false also while Prometheus starts."""
        try:
            return bool(self.ask(expression))
        except OSError:
            return False


@pytest.fixture
def prometheus(taskyard: StartTaskyard, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus with our settings, less Docker's DNS, that has scraped a worker at its jobs."""
    worker_port, port = free_port(), free_port()
    environment = {
        "TASKYARD_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
        "TASKYARD_METRICS_PORT": str(worker_port),
        "TASKYARD_STATE_DIR": str(tmp_path / "state"),
    }
    assert taskyard("broker", "apply", MODULE, env=environment).wait_exit_blocking(within=60) == 0
    taskyard("worker", MODULE, env=environment)

    config = load(OBSERVABILITY / "prometheus.yml")
    (job,) = (one for one in config["scrape_configs"] if one["job_name"] == "taskyard-worker")
    del job["dns_sd_configs"]
    job |= {"static_configs": [{"targets": [f"127.0.0.1:{worker_port}"]}]}
    job |= {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config | {"scrape_configs": [job]}))
    argv = [
        program("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with Program(argv, log=tmp_path / "prometheus.log"):
        found = Prometheus(port)
        eventually_blocking(
            lambda: found.has('up{job="taskyard-worker"} == 1'), within=60, hint="a first scrape"
        )
        for message in ("one", "two"):
            before = taskyard("send", f"default:test:{message}", "--wait", env=environment)
            assert before.wait_exit_blocking(within=60) == 0
        eventually_blocking(
            lambda: found.has("sum(increase(taskyard_jobs_finished_total[1m])) > 0"),
            within=60,
            hint="the jobs to be scraped",
        )
        yield found


def test_panels_have_data(prometheus: Prometheus) -> None:
    """Every query runs; every panel over the worker's own metrics shows something."""
    empty: list[Query] = []
    for query in queries():
        if any(name.startswith("rabbitmq_") for name in query.metrics()):
            continue
        if not prometheus.ask(query.ready()):
            empty.append(query)
    assert {query.panel for query in empty} <= MAY_BE_EMPTY, empty
    (workers,) = prometheus.ask("count(count by (instance) (taskyard_slots))")
    assert workers["value"][1] == "1"
