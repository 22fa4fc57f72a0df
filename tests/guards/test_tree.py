"""The traps of the workspace are found before they bite."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = ("shared", "producer", "broker_setup", "workers", "ledger")


def check(root: Path) -> tuple[int, str]:
    """Run the tree's guard of a copy of the project."""
    done = subprocess.run(
        [sys.executable, str(root / "scripts/check_tree.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bones of the project, outside git."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/check_tree.py", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for member in MEMBERS:
        (tmp_path / member / "src/taskyard" / member).mkdir(parents=True)
        shutil.copy(ROOT / member / "pyproject.toml", tmp_path / member)
    return tmp_path


def test_the_tree_is_clean() -> None:
    """The project itself holds nothing that the guard forbids."""
    assert check(ROOT) == (0, "")


def test_the_copy_is_clean(copy: Path) -> None:
    """The guard works without git, and does not find itself."""
    assert check(copy) == (0, "")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_stray_package_file_is_found(copy: Path, member: str) -> None:
    """`taskyard/__init__.py` would hide the other components, so it fails the check."""
    (copy / member / "src/taskyard/__init__.py").touch()
    status, text = check(copy)
    assert status == 1
    assert "would hide the other components" in text


@pytest.mark.parametrize(
    "line",
    [
        "https://example.org/" + "files/pika-1.0-py3-none-any" + ".whl",
        "--index-url https://example.org/" + "simple",
        "cd /wo" + "rk/main",
        "/ho" + "me/somebody/project",
        "../shar" + "ed/tools/rabbitmq",
    ],
)
def test_addresses_and_machine_paths_are_found(copy: Path, line: str) -> None:
    """No file may say where this machine fetched or kept something."""
    (copy / "notes.txt").write_text(f"first\n{line}\n")
    status, text = check(copy)
    assert status == 1
    assert "notes.txt:2:" in text


def test_a_requirement_without_a_pin_is_found(copy: Path) -> None:
    """Whatever is asked for has its exact version in the constraints."""
    constraints = copy / "constraints.txt"
    constraints.write_text(re.sub(r"(?m)^pika==.*\n", "", constraints.read_text()))
    status, text = check(copy)
    assert status == 1
    assert "pika>=" in text


def test_members_out_of_step_are_found(copy: Path) -> None:
    """A member with a version of its own, or a pin to another one, fails the check."""
    project = copy / "shared/pyproject.toml"
    project.write_text(re.sub(r'(?m)^version = ".*"$', 'version = "9.9.9"', project.read_text()))
    status, text = check(copy)
    assert status == 1
    assert "not in lockstep" in text
    assert "must be pinned to 9.9.9" in text


def test_the_constraints_hold_names_and_versions_only() -> None:
    """No addresses, hashes or local paths: the installer decides where things come from."""
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line), (
            line
        )


def test_plain_pip_installs_every_member() -> None:
    """The developer's requirements name each member and the root (plain pip knows no workspaces)."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    installed = {
        re.sub(r"\[.*\]", "", line.removeprefix("-e ./"))
        for line in lines
        if line.startswith("-e ./")
    }
    assert installed == set(MEMBERS)
    assert "-e .[examples]" in lines


def test_make_help_lists_every_public_target() -> None:
    """`make help` is complete: a target that people call has a description."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {
        "setup",
        "check",
        "test",
        "test-unit",
        "demo",
        "bench-smoke",
        "fmt",
        "clean",
        "help",
    } <= listed


@pytest.mark.parametrize(
    "name",
    [
        "scripts/setup",
        "scripts/ensure-rabbitmq",
        "scripts/ensure-prometheus",
        "scripts/compose-secrets",
        ".ci/run",
    ],
)
def test_scripts_parse_and_stop_at_the_first_error(name: str) -> None:
    """Shell scripts are strict, executable and well-formed."""
    script = ROOT / name
    assert "set -euo pipefail" in script.read_text()
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)


@pytest.mark.parametrize("member", MEMBERS)
def test_each_distribution_carries_the_licence(member: str) -> None:
    """A member is published alone, so it has the licence's text with it."""
    assert (ROOT / member / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
