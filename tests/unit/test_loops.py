"""Which event loop runs where the choice is ours."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("closed", "made"), [("", "True"), ("0", "False"), ("0, 1", "False")])
def test_a_daemon_without_standard_streams_gets_a_loop_that_bears_it(
    closed: str, made: str
) -> None:
    """The process would end (SIGABRT) when uvloop closes a descriptor that has such a number."""
    code = (
        "import asyncio, os; from taskyard.shared.loops import fastest_loop\n"
        f"for number in [{closed}]: os.close(number)\n"
        "make = fastest_loop()\n"
        "loop = (make or asyncio.new_event_loop)()\n"
        "loop.run_until_complete(asyncio.sleep(0))\n"
        "loop.close()\n"
        "os.write(2, str(make is not None).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, made)
