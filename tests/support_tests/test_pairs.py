"""Which pairs of broker and database are run: each of both, and the newest broker with each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.pairs import ALL_PAIRS_VARIABLE

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("everything", [False, True])
def test_each_broker_and_each_database_is_there(everything: bool) -> None:
    """Tests that are not marked keep all of their runs."""
    target = TESTS / "integration" / "test_ledger_changes.py"
    env = {**os.environ, **({ALL_PAIRS_VARIABLE: "1"} if everything else {})}
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", "test_by_filter", target],
        check=True,
        capture_output=True,
        text=True,
        env=env,
        cwd=TESTS.parent,
    ).stdout
    runs = [line.partition("[")[2].rstrip("]") for line in listed.splitlines() if "[" in line]
    databases = {run.partition("-")[0] for run in runs}
    brokers = list(dict.fromkeys(run.partition("-")[2] for run in runs))
    assert databases == {"sqlite", "postgresql"}
    assert brokers[0] == "sqlite"
    assert {run for run in runs if run.endswith(f"-{brokers[-1]}")} == {
        f"{database}-{brokers[-1]}" for database in databases
    }
    assert len(runs) == (len(brokers) * 2 if everything else len(brokers) + 1)
