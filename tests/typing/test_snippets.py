"""The snippets beside this file pass both type checkers, and fail exactly where they say so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNIPPETS = sorted(Path(__file__).parent.glob("snippets_*.py"))
SOURCES = [ROOT / component / "src" for component in ("shared", "producer", "ledger")]

pytestmark = pytest.mark.slow


def run(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_snippets_pass_mypy() -> None:
    """Mypy --strict accepts every snippet, and finds each error that one expects (B-28)."""
    code, output = run("mypy", "--strict", "--warn-unused-ignores", *map(str, SNIPPETS))
    assert code == 0, output


def test_the_snippets_pass_pyright(tmp_path: Path) -> None:
    """Pyright's strict mode does too; mypy's ignores mean nothing to it here (B-28)."""
    config = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": [str(path) for path in SNIPPETS],
        "extraPaths": [str(path) for path in SOURCES],
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    code, output = run("basedpyright", "--project", str(tmp_path), "--pythonpath", sys.executable)
    assert code == 0, output
