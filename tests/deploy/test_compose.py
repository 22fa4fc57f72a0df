"""docker-compose.yml is whole, safe by default, and speaks to the real program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.command_line import VARIABLE, check_command, known_variables
from deploy.dockerfile import parse
from deploy.files import COMPOSE, DOCKERFILE, ROOT, check_pinned, interpolated, load, seconds
from taskyard.shared.adapters.amqp.url import parse_url
from taskyard.shared.catalogue import load_queues
from taskyard.shared.settings import Settings

COMPOSED = load(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
STAGES = parse(DOCKERFILE.read_text())
#: One-shots end by themselves; nothing waits for their health, only for their success.
ONE_SHOTS = {"setup"}
#: Variables of the file itself, filled in by Compose, never seen by a container.
INTERPOLATED = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text()))


def environment_of(name: str) -> dict[str, str]:
    return {
        variable: interpolated(str(value))
        for variable, value in SERVICES[name].get("environment", {}).items()
    }


def test_there_are_the_services_that_the_docs_name() -> None:
    """A broker, the one-shot set-up, workers, Prometheus and Grafana; no version key any more."""
    assert set(SERVICES) == {"rabbitmq", "setup", "worker", "prometheus", "grafana"}
    assert "version" not in COMPOSED


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    """Each image names its release."""
    check_pinned(interpolated(SERVICES[name]["image"]))


def test_rabbitmq_is_the_release_that_is_tested() -> None:
    """4.3 with its management plugin, and a host name of its own: the data hangs on it."""
    assert re.match(r"rabbitmq:4\.3\.\d+-management$", SERVICES["rabbitmq"]["image"])
    assert SERVICES["rabbitmq"]["hostname"] == "rabbitmq"


@pytest.mark.parametrize("name", SERVICES)
def test_health_is_known(name: str) -> None:
    """Each service has a health check of its own, or its image's, or is a one-shot."""
    check = SERVICES[name].get("healthcheck")
    if name in ONE_SHOTS:
        assert check == {"disable": True}
    elif check is None:
        assert STAGES[SERVICES[name]["build"]["target"]].all("HEALTHCHECK")
    else:
        assert check["test"][0] in {"CMD", "CMD-SHELL"}
        assert seconds(check["timeout"]) <= seconds(check["interval"])
        assert check["retries"] >= 3
        assert seconds(check["start_period"]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_can_come_true(name: str) -> None:
    """Who waits for health waits for one that has it; who waits for success, for a one-shot."""
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        if wait["condition"] == "service_completed_successfully":
            assert other in ONE_SHOTS
        else:
            assert wait["condition"] == "service_healthy"
            assert SERVICES[other]["healthcheck"]["test"]


def test_workers_start_after_the_queues_exist() -> None:
    """Broker, then `broker apply`, then workers: they never make queues themselves."""
    assert SERVICES["setup"]["depends_on"]["rabbitmq"]["condition"] == "service_healthy"
    conditions = SERVICES["worker"]["depends_on"]
    assert conditions["rabbitmq"]["condition"] == "service_healthy"
    assert conditions["setup"]["condition"] == "service_completed_successfully"


def test_workers_scale() -> None:
    """Nothing of a worker can exist only once."""
    worker = SERVICES["worker"]
    assert not {"container_name", "hostname", "ports"} & set(worker)


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_the_loopback(name: str) -> None:
    """What is published is for this machine alone."""
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_services_come_back_and_stop_in_order(name: str) -> None:
    """A service is restarted until someone stops it; a one-shot is not. Logs are bounded."""
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert service["logging"]["options"]["max-size"]
    if name not in ONE_SHOTS:
        assert "stop_grace_period" in service


def test_a_worker_gets_its_grace() -> None:
    """Docker kills only after the worker's own grace and the time to hand jobs back."""
    settings = Settings(
        **{
            name.removeprefix("TASKYARD_").lower(): value
            for name, value in environment_of("worker").items()
            if not name.endswith("_FILE")
        }
    )
    margin_s = seconds(SERVICES["worker"]["stop_grace_period"]) - settings.grace
    assert margin_s >= settings.publish_deadline + 5
    assert settings.metrics_host == "0.0.0.0"


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_confined(name: str) -> None:
    """Read-only, without capabilities, with an init that reaps what a job leaves behind."""
    service = SERVICES[name]
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["build"]["target"] in STAGES
    assert not service.get("privileged")


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("module", [None, "taskyard.workers.selftest"])
def test_commands_are_real(name: str, module: str | None) -> None:
    """The program takes each command line, and the module that it names declares queues."""
    given = {} if module is None else {"TASKYARD_MODULE": module}
    command = [interpolated(word, given) for word in SERVICES[name]["command"]]
    check_command(command)
    assert load_queues([command[-1]])
    assert "--ledger" not in command, "nothing here reads the feed"


def test_set_up_and_workers_mean_the_same_queues() -> None:
    """What is made is what is consumed, whatever TASKYARD_MODULE says."""
    assert SERVICES["setup"]["command"][-1] == SERVICES["worker"]["command"][-1]


def test_every_variable_is_known() -> None:
    """Each variable of ours is one that the program reads, or one that Compose fills in here."""
    for name in OURS:
        assert {v for v in environment_of(name) if VARIABLE.fullmatch(v)} <= known_variables()
    assert set(VARIABLE.findall(COMPOSE.read_text())) <= known_variables() | INTERPOLATED
    explained = COMPOSE.read_text().split("name: taskyard")[0]
    assert set(VARIABLE.findall(explained)) == INTERPOLATED, "the file's head explains each"


def test_secrets_are_files() -> None:
    """No password stands in an environment; each secret is defined, used and mounted."""
    used = set()
    for name, service in SERVICES.items():
        for secret in service.get("secrets", ()):
            used.add(secret if isinstance(secret, str) else secret["source"])
        for variable, value in environment_of(name).items():
            if re.search("URL|PASS|SECRET|TOKEN", variable):
                assert variable.endswith("_FILE")
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert used == set(COMPOSED["secrets"])


def test_secrets_are_made_by_the_script(tmp_path: Path) -> None:
    """The script makes each file that is mounted, once; broker and workers share one password."""
    folder = tmp_path / "secrets"
    script = [ROOT / "scripts/compose-secrets", folder]
    subprocess.run(script, check=True, capture_output=True, timeout=30)
    wanted = {Path(secret["file"]).name for secret in COMPOSED["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == wanted
    (address,) = parse_url((folder / "broker_url").read_text().strip())
    assert address.host in SERVICES
    user = dict(
        re.split(r"\s*=\s*", line)
        for line in (folder / "rabbitmq_user.conf").read_text().splitlines()
    )
    assert (user["default_user"], user["default_pass"]) == (address.user, address.password)
    assert len(address.password) >= 32
    assert folder.stat().st_mode & 0o077 == 0, "the folder keeps others out"
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())

    before = {path.name: path.read_text() for path in folder.iterdir()}
    subprocess.run(script, check=True, capture_output=True, timeout=30)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    (folder / "broker_url").unlink()
    again = subprocess.run(script, capture_output=True, text=True, timeout=30)
    assert again.returncode == 1
    assert "belong together" in again.stderr


def test_secrets_are_not_committed() -> None:
    """Git leaves the folder alone."""
    folders = {Path(secret["file"]).parent.name for secret in COMPOSED["secrets"].values()}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {f"/{folder}/" for folder in folders} <= set(ignored)


def test_files_and_volumes_exist() -> None:
    """What is mounted from the repository is in it and read-only; the rest are named volumes."""
    named = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, _, mode = volume.split(":")[0], volume.split(":")[1], volume.split(":")[2:]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert mode == ["ro"]
            else:
                named.add(source)
    assert named == set(COMPOSED["volumes"])


def test_what_a_worker_must_keep_is_on_a_volume() -> None:
    """With a read-only root, the state folder is the one place besides /tmp to write to."""
    state = STAGES["worker"].environment()["TASKYARD_STATE_DIR"]
    assert f"worker-state:{state}" in SERVICES["worker"]["volumes"]
