"""The Dockerfile follows the rules of images that are safe and small to run."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.command_line import VARIABLE, check_command, known_variables
from deploy.dockerfile import Stage, parse
from deploy.files import DOCKERFILE, ROOT, check_pinned, version
from support.ports import free_port
from taskyard.shared.health import HealthServer
from taskyard.shared.settings import Settings
from taskyard.workers.signs import LaneSigns, Signs, why_dead, why_not_ready

STAGES = parse(DOCKERFILE.read_text())
FINAL = [name for name in STAGES if f"{name}-env" in STAGES]
BUILD_TOOLS = re.compile(r"\b(gcc|g\+\+|make|build-essential|hatchling|cargo|apt-get|curl|git)\b")


@pytest.fixture(params=FINAL)
def final(request: pytest.FixtureRequest) -> Stage:
    return STAGES[request.param]


def test_there_is_a_worker() -> None:
    """The target that Compose and the chart run exists; each role has its stage and its env."""
    assert "worker" in FINAL
    assert list(STAGES)[-1] in FINAL, "a build without --target ends in a role"


def test_bases_are_pinned_and_slim() -> None:
    """Each base is a slim Debian of a named release, or an earlier stage; all are the same."""
    bases = {stage.base for stage in STAGES.values() if stage.base not in STAGES}
    assert len(bases) == 1
    (base,) = bases
    check_pinned(base)
    assert re.search(r"-slim-(bookworm|trixie)$", base)


def test_it_runs_as_a_numeric_user_without_rights(final: Stage) -> None:
    """Kubernetes can check `runAsNonRoot` only against a number."""
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", final.last("USER").text)
    after = final.instructions[final.instructions.index(final.last("USER")) :]
    assert not [one for one in after if one.name in {"RUN", "COPY"}], "nothing of it is its own"


def test_the_final_stage_builds_nothing(final: Stage) -> None:
    """What runs has no compiler, no build back end, and takes its files from its env only."""
    assert final.base not in STAGES
    assert not [one for one in final.all("RUN") if BUILD_TOOLS.search(one.text)]
    assert [one.flags.get("from") for one in final.all("COPY")] == [f"{final.name}-env"]
    removed = " ".join(one.text for one in final.all("RUN") if "pip uninstall" in one.text)
    assert {"setuptools", "wheel"} <= set(removed.split())


def test_it_takes_signals(final: Stage) -> None:
    """Exec form: the program itself gets SIGTERM, not a shell."""
    assert final.last("ENTRYPOINT").words == ["taskyard"]
    command = final.last("CMD").words
    assert command is not None
    check_command(command)
    assert final.last("STOPSIGNAL").text == "SIGTERM"


def test_its_environment(final: Stage) -> None:
    """Logs leave at once, and the settings that it fixes are real and valid."""
    environment = final.environment()
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["PATH"].startswith("/opt/taskyard/bin:")
    ours = {name: value for name, value in environment.items() if VARIABLE.fullmatch(name)}
    assert set(ours) <= known_variables()
    settings = Settings(**{name.removeprefix("TASKYARD_").lower(): ours[name] for name in ours})
    assert settings.metrics_host == "0.0.0.0"
    assert final.last("EXPOSE").text == str(settings.metrics_port)
    made = " ".join(one.text for one in final.all("RUN"))
    owner = final.last("USER").text.split(":")[0]
    assert re.search(rf"install --directory --owner={owner}\b.* {settings.state_dir}$", made)


def test_its_labels(final: Stage) -> None:
    """A registry can say what it is, which version, and under which licence."""
    labels = dict(
        re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', DOCKERFILE.read_text())
    )
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "version", "revision"} <= set(labels)
    assert f"VERSION={version()}" in [one.text for one in final.all("ARG")]


def test_every_variable_is_known() -> None:
    """No variable of ours in the file is one that the program would not read."""
    assert set(VARIABLE.findall(DOCKERFILE.read_text())) <= known_variables()


def test_pip_installs_exact_versions() -> None:
    """Every installation is bound by the constraints, and no wheel builds in isolation."""
    for stage in STAGES.values():
        for one in stage.all("RUN"):
            if "pip install" in one.text or re.search(r"pip --python \S+ install", one.text):
                assert "-c constraints.txt" in one.text
            if "pip wheel" in one.text:
                assert "--no-build-isolation" in one.text


def test_the_ignore_file_admits_what_is_copied() -> None:
    """Each source of a COPY exists, and .dockerignore lets it and its files through."""
    sources = [
        source
        for stage in STAGES.values()
        for one in stage.all("COPY")
        if "from" not in one.flags
        for source in one.rest.split()[:-1]
    ]
    assert {"constraints.txt", "shared", "producer", "broker_setup", "workers"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert admitted(source), f".dockerignore keeps {source} out"
    for member in ("shared", "producer", "broker_setup", "workers"):
        for name in (
            "pyproject.toml",
            "README.md",
            "LICENSE",
            f"src/taskyard/{member}/__init__.py",
        ):
            assert admitted(f"{member}/{name}"), name
    assert not admitted("secrets/broker_url")
    assert not admitted(".env")


def admitted(path: str) -> bool:
    """Whether .dockerignore lets a path into the build: the last pattern that matches decides."""
    verdict = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        admits = pattern.startswith("!")
        parts = path.split("/")
        upper = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        bare = pattern.lstrip("!")
        names = parts if bare.startswith("**/") else upper
        if any(fnmatch.fnmatchcase(name, bare.removeprefix("**/")) for name in names):
            verdict = admits
    return verdict


@pytest.mark.parametrize(("alive", "status"), [(True, 0), (False, 1)])
def test_the_health_check_asks_livez(
    final: Stage, alive: bool, status: int, tmp_path: Path
) -> None:
    """Its one-liner says what /livez says, whatever proxy or module of the same name is around."""
    words = final.last("HEALTHCHECK").words
    assert words is not None
    assert words[0] == "python"
    lane = LaneSigns(queue="default", stuck=0 if alive else 99)
    (tmp_path / "http.py").write_text("raise RuntimeError('a module of the user')")
    port = free_port()
    server = HealthServer(
        "127.0.0.1",
        port,
        signs=lambda: Signs(lanes=(lane,)),
        metrics=lambda: b"",
        dead=why_dead,
        unready=why_not_ready,
    )
    try:
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env={"TASKYARD_METRICS_PORT": str(port), "http_proxy": "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            timeout=30,
        )
    finally:
        server.close()
    assert done.returncode == status, done.stderr


def test_the_health_check_fails_without_a_worker(final: Stage) -> None:
    """A process that serves nothing is not healthy."""
    words = final.last("HEALTHCHECK").words
    assert words is not None
    done = subprocess.run(
        [sys.executable, *words[1:]],
        env={"TASKYARD_METRICS_PORT": str(free_port())},
        capture_output=True,
        timeout=30,
    )
    assert done.returncode != 0
