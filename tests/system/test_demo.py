"""`make demo` on every broker, small: every order ends, and the demo says so by its exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.broker import BrokerUnderTest
from support.process import Program

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.system


async def test_every_order_is_accounted_for(broker_url: BrokerUnderTest, tmp_path: Path) -> None:
    """Orders from CSV to parcels and mails, with declines, 503s, delays and holds, none left over."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    if broker_url.kind == "rabbitmq":  # on SQLite it brings its own broker
        environment["TASKYARD_BROKER_URL"] = broker_url.url
        environment["TASKYARD_MANAGEMENT_URL"] = broker_url.management_url or ""
    command = [sys.executable, "-m", "examples.checkout.demo", "--orders", "300", "--delay", "3"]
    with Program(command, log=tmp_path / "demo.log", env=environment, cwd=tmp_path) as demo:
        assert await demo.wait_exit(within=110) == 0, demo.output
        assert "every order is accounted for" in demo.output
        assert "held" in demo.output
        assert "declined" in demo.output
