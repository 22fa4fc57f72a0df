"""`make bench` in small: it measures, and says what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import load

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.rabbitmq
def test_the_benchmark_measures_us_and_the_bare_client(tmp_path: Path) -> None:
    """Every part in which a peer is not needed gives figures."""
    path = tmp_path / "figures.json"
    parts = "publish-many,consume,delays,embedded-consume"
    command = [sys.executable, "-m", "benchmarks", "--only", parts, "--rows", "taskyard,bare"]
    size = ["--rounds", "1", "--scale", "0.05", "--json", str(path)]
    done = subprocess.run(
        [*command, *size, "--plots", str(tmp_path / "plots"), "--markdown", str(tmp_path / "t.md")],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    report = load(path.read_bytes())
    assert set(report.parts) == set(parts.split(","))
    for rows in report.parts.values():
        for figures in rows.values():
            for values in figures.values():
                assert len(values) == 1
                assert min(values) > 0
    assert list((tmp_path / "plots").glob("consume-*.svg"))
    assert "bare pika" in (tmp_path / "t.md").read_text()
