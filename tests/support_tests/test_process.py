"""Programs under test, their signals and what becomes of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from support.eventually import NeverHappened, eventually
from support.process import Program, taskyard_command, wait_gone_blocking

Start = Callable[[str], Program]


@pytest.fixture
def python(tmp_path: Path) -> Start:
    """Start a Python program from its text."""

    def start(text: str) -> Program:
        return Program([sys.executable, "-c", textwrap.dedent(text)], log=tmp_path / "log")

    return start


async def test_lines_and_exit_code(python: Start) -> None:
    """Lines can be waited for, also the nth; then the exit code."""
    text = "print('one'); print('two 1'); print('two 2', flush=True); input_ = None; exit(3)"
    async with python(text) as program:
        assert await program.wait_line("two") == "two 1"
        assert await program.wait_line("^two", count=2) == "two 2"
        assert await program.wait_exit() == 3
        assert program.lines == ["one", "two 1", "two 2"]


async def test_a_program_that_ends_too_soon_is_reported_with_its_output(python: Start) -> None:
    """Waiting ends at once when the line cannot come any more."""
    async with python("raise SystemExit('broken configuration')") as program:
        with pytest.raises(NeverHappened, match=r"(?s)ended with 1.*broken configuration"):
            await program.wait_line("ready", within=60)


async def test_signals(python: Start) -> None:
    """SIGTERM reaches the program; SIGKILL shows as -9; a suspended one does not move."""
    text = """
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: exit(0))
        print("ready")
        while True: time.sleep(1)
    """
    async with python(text) as program:
        await program.wait_line("ready")
        program.freeze()
        assert psutil.Process(program.pid).status() == psutil.STATUS_STOPPED
        program.terminate()
        with pytest.raises(NeverHappened, match="still runs"):
            await program.wait_exit(within=0.1)
        program.thaw()
        assert await program.wait_exit() == 0
    async with python(text) as program:
        await program.wait_line("ready")
        program.kill()
        assert await program.wait_exit() == -signal.SIGKILL
        assert not program.is_running


async def test_a_frozen_program_does_no_more_work(python: Start, tmp_path: Path) -> None:
    """Once `freeze` has returned, none of many busy threads moves, however busy the machine is."""
    text = f"""
        import hashlib, mmap, os, threading
        with open({str(tmp_path / "turns")!r}, "wb+") as file:
            file.truncate(4096)
            turns = mmap.mmap(file.fileno(), 4096)
        block = bytes(1 << 16)
        def work(place):
            while True:
                hashlib.sha256(block).digest()
                turns[place] = (turns[place] + 1) % 256
        for place in range(8):
            threading.Thread(target=work, args=(place,)).start()
        print("ready")
    """
    async with python(text) as program:
        await program.wait_line("ready")
        turns = tmp_path / "turns"

        def moved(since: bytes) -> bool:
            return turns.read_bytes() != since

        for _ in range(5):
            program.freeze()
            stood = turns.read_bytes()
            with pytest.raises(NeverHappened):
                await eventually(partial(moved, stood), within=0.1)
            program.thaw()
            await eventually(partial(moved, stood))


def test_memory_of_the_whole_tree(python: Start) -> None:
    """Memory counts descendants; the proportional figure is the smaller one."""
    text = """
        import subprocess, sys
        child = [sys.executable, "-c", "x = b'x' * 30_000_000; print('ready', flush=True); input()"]
        subprocess.Popen(child, stdin=subprocess.PIPE).wait()
    """
    with python(text) as program:
        program.wait_line_blocking("ready")
        assert program.resident_bytes() > 40_000_000
        assert 30_000_000 < program.proportional_bytes() <= program.resident_bytes()


def test_nothing_is_left_behind(python: Start) -> None:
    """Leaving the context ends the program and its descendants, also detached ones."""
    text = """
        import subprocess, sys
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        print(subprocess.Popen(sleeper, start_new_session=True).pid, flush=True)
        sys.stdin.read(); import time; time.sleep(600)
    """
    with python(text) as program:
        descendant = int(program.wait_line_blocking(r"^\d+$"))
        assert psutil.pid_exists(descendant)
    wait_gone_blocking(program.pid)
    wait_gone_blocking(descendant)


def test_a_program_dies_with_the_test_run(tmp_path: Path) -> None:
    """When the process that started it is killed, so is the program."""
    log = tmp_path / "log"
    text = f"""
        import sys, time
        from pathlib import Path
        from support.process import Program
        program = Program([sys.executable, "-c", "import time; time.sleep(600)"], log=Path({str(log)!r}))
        print(program.pid, flush=True)
        time.sleep(600)
    """
    tests = Path(__file__).resolve().parents[1]
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        cwd=tests,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_gone_blocking(pid)


def test_a_program_does_not_inherit_the_settings_of_the_test_run(
    python: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of Taskyard and of CI do not leak into a program under test."""
    monkeypatch.setenv("TASKYARD_BROKER_URL", "amqp://elsewhere")
    monkeypatch.setenv("CI", "1")
    text = "import os; print([n for n in os.environ if n.startswith(('TASKYARD_', 'CI'))])"
    with python(text) as program:
        assert program.wait_exit_blocking() == 0
        assert program.lines == ["[]"]


def test_the_command_is_the_one_beside_this_python() -> None:
    """The script of this environment is used, or its module where it is not installed."""
    command = taskyard_command()
    assert Path(command[0]).parent == Path(sys.executable).parent
