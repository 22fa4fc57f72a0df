"""Prometheus' configuration and Grafana's dashboard fit each other, Compose and the code."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from deploy.files import COMPOSE, OBSERVABILITY, load
from deploy.prometheus import DASHBOARDS, SERIES, Query, panels, program, queries
from support.eventually import eventually_blocking
from support.process import run_taskyard
from support.rabbitmq import Server
from support.server import BlockingSharedNode
from taskyard.shared.settings import Settings

SERVICES = load(COMPOSE)["services"]
PROMETHEUS = load(OBSERVABILITY / "prometheus.yml")
JOBS = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
GRAFANA = OBSERVABILITY / "grafana/provisioning"
#: What Prometheus adds to every series.
SCRAPED = {"job", "instance"}
EACH = pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)


# ── Prometheus ────────────────────────────────────────────────────────────────────────────────


def test_prometheus_takes_its_configuration() -> None:
    """Promtool finds nothing wrong."""
    done = subprocess.run(
        [program("promtool"), "check", "config", OBSERVABILITY / "prometheus.yml"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_scaled_worker_is_found() -> None:
    """Workers are looked up in Docker's DNS again and again, at the port that they serve."""
    (lookup,) = JOBS["taskyard-worker"]["dns_sd_configs"]
    assert lookup["names"] == ["worker"]
    assert lookup["names"][0] in SERVICES
    assert lookup["type"] == "A"
    port = int(SERVICES["worker"]["environment"]["TASKYARD_METRICS_PORT"])
    assert lookup["port"] == port == Settings.metrics_port


def test_targets_are_services() -> None:
    """Each fixed target is a service of the same file, or Prometheus itself."""
    hosts = {
        target.partition(":")[0]
        for job in JOBS.values()
        for group in job.get("static_configs", ())
        for target in group["targets"]
    }
    assert hosts <= set(SERVICES) | {"127.0.0.1"}


def test_rates_see_four_scrapes() -> None:
    """Grafana knows the workers' scrape interval, so that no rate spans fewer than four."""
    (source,) = load(GRAFANA / "datasources/prometheus.yml")["datasources"]
    assert source["jsonData"]["timeInterval"] == JOBS["taskyard-worker"]["scrape_interval"]


# ── Grafana ───────────────────────────────────────────────────────────────────────────────────


def test_grafana_finds_its_parts() -> None:
    """Data source, provider and dashboard meet, at the paths that Compose mounts."""
    (source,) = load(GRAFANA / "datasources/prometheus.yml")["datasources"]
    host = source["url"].removeprefix("http://").partition(":")[0]
    assert host in SERVICES
    (provider,) = load(GRAFANA / "dashboards/taskyard.yml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    assert mounts["./observability/grafana/dashboards"] == provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert Path(home).name in {path.name for path in DASHBOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_is_sound(path: Path) -> None:
    """The classic form, a fixed uid, and panels that neither overlap nor share an id."""
    dashboard = json.loads(path.read_text())
    assert 39 <= dashboard["schemaVersion"] <= 41
    assert dashboard["uid"]
    assert "taskyard" in dashboard["tags"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel["title"])
def test_a_panel_explains_itself(panel) -> None:
    """Each panel has a description, a unit and the chosen data source; queries have names."""
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for thing in (panel, *panel["targets"]):
        assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len(set(names))


def test_the_dashboard_shows_what_operators_ask() -> None:
    """Flow by outcome, waits, runs, slots, parked jobs, loop lag and the broker's state."""
    shown = {name for query in queries() for name in query.metrics()}
    assert {
        "taskyard_jobs_published_total",
        "taskyard_jobs_finished_total",
        "taskyard_job_wait_seconds_bucket",
        "taskyard_job_run_seconds_bucket",
        "taskyard_jobs_running",
        "taskyard_slots",
        "taskyard_queue_paused",
        "taskyard_loop_lag_seconds_bucket",
        "taskyard_broker_connected",
        "taskyard_broker_blocked",
        "rabbitmq_detailed_queue_messages",
        "rabbitmq_detailed_queue_messages_ready",
    } <= shown
    waits = [query.expression for query in queries() if "job_wait_seconds" in query.expression]
    assert [text.split("(")[1].split(",")[0] for text in waits] == ["0.5", "0.95", "0.99"]


@EACH
def test_series_and_labels_exist(query: Query) -> None:
    """Each series of ours is in the table, with the labels that the query names."""
    known = {
        name: set(SERIES[name].labels) | SCRAPED | ({"le"} if name.endswith("_bucket") else set())
        for name in query.metrics()
        if not name.startswith("rabbitmq_")
    }
    for name, labels in query.labels().items():
        if name in known:
            assert labels <= known[name], name
    if len(known) == len(query.metrics()):
        for name, labels in known.items():
            assert query.groups() <= labels, name


def test_queries_parse(tmp_path: Path) -> None:
    """Promtool takes every query, with the dashboard's variables filled in either way."""
    rules = [
        {"record": f"dashboard:query_{number}:{kind}", "expr": query.ready(queue=queue)}
        for number, query in enumerate(queries())
        for kind, queue in (("all", ".*"), ("one", "mail"), ("two", "(mail|checkout)"))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [program("promtool"), "check", "rules", file],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_rabbitmq_serves_what_the_dashboard_reads(
    rabbitmq_node: Server, amqp_url: str, tmp_path: Path
) -> None:
    """The endpoint that Prometheus scrapes has the series, with our queues' names as labels."""
    node = rabbitmq_node.blocking
    if not isinstance(node, BlockingSharedNode):
        pytest.skip("a server given by URL does not say where its Prometheus endpoint is")
    code, output = run_taskyard(
        "broker", "apply", "taskyard.workers.selftest",
        log=tmp_path / "apply.log", env={"TASKYARD_BROKER_URL": amqp_url},
    )  # fmt: skip
    assert code == 0, output
    job = JOBS["rabbitmq-queues"]
    families = "&".join(f"family={family}" for family in job["params"]["family"])
    url = f"http://127.0.0.1:{node.address.prometheus_port}{job['metrics_path']}?{families}"
    wanted = {
        (name, queue)
        for query in queries()
        for name in query.metrics()
        if name.startswith("rabbitmq_")
        for queue in ("taskyard.q.default", "taskyard.parked.default")
    }
    assert wanted

    def missing() -> set[tuple[str, str]]:
        with urllib.request.urlopen(url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {
            (name, queue)
            for name, queue in wanted
            if not any(
                line.startswith(f"{name}{{") and f'queue="{queue}"' in line for line in lines
            )
        }

    # A queue states its numbers only every few seconds.
    eventually_blocking(lambda: not missing(), within=30, hint=f"{sorted(wanted)} at {url}")
