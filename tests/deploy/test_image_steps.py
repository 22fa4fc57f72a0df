"""The Dockerfile's steps, done in a clean folder: there is no engine in CI, but there is pip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.dockerfile import Instruction, parse
from deploy.files import DOCKERFILE, ROOT
from support.process import Program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = parse(DOCKERFILE.read_text())


class Image:
    """A folder that stands for the image's file system."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; a virtual environment in it stands for the base image's Python."""
        self.folder = folder
        self.workdir = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "python"], check=True, timeout=120)
        # pip may need to be told where packages come from; that is this machine's matter.
        kept = {name: text for name, text in os.environ.items() if _is_for_pip(name)}
        self.environment = {**kept, "PATH": f"{folder}/python/bin:/usr/bin:/bin"}

    def do(self, instruction: Instruction) -> None:
        """Do one step, with the image's absolute paths moved into the folder."""
        if instruction.name == "WORKDIR":
            self.workdir = Path(self._moved(instruction.text))
            self.workdir.mkdir(parents=True)
        elif instruction.name == "ENV":
            self.environment |= dict(
                pair.split("=", 1) for pair in instruction.text.split() if "=" in pair
            )
        elif instruction.name == "COPY":
            *sources, target = instruction.rest.split()
            for source in sources:
                self._copy(ROOT / source, self.workdir / target)
        elif instruction.name == "RUN":
            subprocess.run(
                ["/bin/sh", "-ec", self._moved(instruction.rest)],
                cwd=self.workdir,
                env=self.environment,
                check=True,
                timeout=400,
            )

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)

    def _moved(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(src|wheels|opt/taskyard)\b", rf"{self.folder}/\1", text)


def _is_for_pip(name: str) -> bool:
    return name == "HOME" or name.startswith("PIP_") or name.lower().endswith("_proxy")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder /opt/taskyard as the build stages leave it."""
    image = Image(tmp_path_factory.mktemp("image"))
    for name in ("wheels", "worker-env"):
        for instruction in STAGES[name].instructions:
            image.do(instruction)
    return image.folder / "opt/taskyard"


def installed_names(folder: Path) -> set[str]:
    found = folder.glob("lib/python3*/site-packages/*.dist-info")
    return {path.name.split("-")[0].lower() for path in found}


def test_the_steps_leave_a_program(installed: Path) -> None:
    """The entry point runs from the finished folder and knows every command."""
    done = subprocess.run(
        [installed / "bin/taskyard", "--help"],
        env={}, cwd="/", capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    for name in ("worker", "broker", "queues", "parked", "send"):
        assert name in done.stdout


def test_only_what_runs_is_in_it(installed: Path) -> None:
    """All members, no build back end, no installer and no test tool."""
    names = installed_names(installed)
    members = {"taskyard_shared", "taskyard_producer", "taskyard_broker_setup", "taskyard_workers"}
    assert members <= names
    assert "uvloop" in names
    assert not names & {"pip", "hatchling", "setuptools", "editables", "pytest", "ruff", "mypy"}
    assert not list(installed.glob("lib/python3*/site-packages/taskyard/__init__.py"))


def test_it_does_jobs(installed: Path, tmp_path: Path) -> None:
    """Set-up, a job sent and a worker that drains: what Compose does, on one file (LQ-24)."""
    environment = {
        "TASKYARD_BROKER_URL": f"sqlite:///{tmp_path}/broker.db",
        "TASKYARD_STATE_DIR": str(tmp_path / "state"),
        "TASKYARD_METRICS_PORT": "0",
    }
    module = "taskyard.workers.selftest"
    for number, arguments in enumerate(
        (
            ["broker", "apply", module],
            ["send", "default:record", f"path={tmp_path}/lines", "line=hello"],
            ["worker", module, "--drain", "--max-time", "60s"],
        )
    ):
        argv = [str(installed / "bin/taskyard"), *arguments]
        with Program(argv, log=tmp_path / f"{number}.log", env=environment) as program:
            assert program.wait_exit_blocking(within=90) == 0, program.output
    assert '"line":"hello"' in (tmp_path / "lines").read_text().replace(" ", "")
