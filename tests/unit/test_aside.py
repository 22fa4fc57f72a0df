"""Work that a forked child does while a program starts, and settings that are read so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taskyard.shared.aside import Aside
from taskyard.shared.catalogue import name_queues
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.secret import Secret
from taskyard.shared.settings import NAMES, PREFIX, Settings
from taskyard.shared.settings_aside import SettingsAside


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
        monkeypatch.delenv(f"{PREFIX}{name.upper()}_FILE", raising=False)


def outside(code: str) -> str:
    """Run code in a fresh interpreter, which has one thread; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={name: value for name, value in os.environ.items() if not name.startswith(PREFIX)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not done.stderr
    return done.stdout


def test_the_work_is_done_by_another_process() -> None:
    """Its result comes back, however large, and nothing else."""
    code = (
        "import os; from taskyard.shared.aside import Aside\n"
        "def work():\n"
        "    return f'{os.getpid()}'.encode().zfill(300_000)\n"
        "found = Aside(work).wait()\n"
        "print(len(found), int(found.lstrip(b'0')) != os.getpid())"
    )
    assert outside(code) == "300000 True\n"


@pytest.mark.parametrize("how", ["1 / 0", "os.kill(os.getpid(), 9)", "raise SystemExit(3)"])
def test_work_that_fails_has_no_result(how: str) -> None:
    """Whatever ends the child: it says nothing, not even on standard error."""
    code = (
        "import os; from taskyard.shared.aside import Aside\n"
        f"def work():\n    {how}\n    return b'x'\n"
        "print(Aside(work).wait())"
    )
    assert outside(code) == "b''\n"


def test_a_process_with_threads_is_not_forked() -> None:
    """What they hold, such as locks, would be held in the child for ever."""
    go = threading.Event()
    other = threading.Thread(target=go.wait)
    other.start()
    try:
        assert Aside(lambda: b"x").wait() == b""
    finally:
        go.set()
        other.join()


def test_a_thread_that_python_does_not_count_is_one() -> None:
    """Those of C libraries, which an application's module may have started."""
    code = (
        "import _thread, os, threading; from taskyard.shared.aside import Aside\n"
        "lock = _thread.allocate_lock(); lock.acquire()\n"
        "_thread.start_new_thread(lock.acquire, ())\n"
        "print(threading.active_count(), Aside(lambda: b'x').wait())"
    )
    assert outside(code) == "1 b''\n"


def test_a_process_that_may_not_fork_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may allow no further process; the work is then done in this one."""

    def refused() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("taskyard.shared.aside._threads", lambda: 1)
    monkeypatch.setattr(os, "fork", refused)
    assert Aside(lambda: b"x").wait() == b""
    assert SettingsAside(concurrency=3).wait().concurrency == 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_the_work_leaves_behind_is_not_waited_for() -> None:
    """An application may fork a process of its own when it is imported, which lives on."""
    code = (
        "import os; from taskyard.shared.aside import Aside\n"
        "here, until_we_end = os.pipe()\n"
        "def work():\n"
        "    if os.fork() == 0:\n"
        "        os.fork(); os.close(until_we_end); os.read(here, 1); os._exit(0)\n"
        "    return b'x'\n"
        "print(Aside(work).wait())\n"
    )
    assert outside(code) == "b'x'\n"


def test_who_is_told_to_stop_takes_the_child_along(tmp_path: Path) -> None:
    """SIGTERM while the child works: neither of the two is left."""
    code = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from taskyard.shared.aside import Aside\n"
        "def work():\n"
        f"    Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    os.kill(os.getppid(), signal.SIGTERM)\n"
        "    time.sleep(600)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "Aside(work).wait()\n"
    )
    assert outside(code) == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_settings_come_back_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets, paths, numbers and texts are those that this process would have read."""
    monkeypatch.setenv("TASKYARD_BROKER_URL", "amqp://user:pässword@host/")
    monkeypatch.setenv("TASKYARD_LOG_FILE", "some where/log")
    monkeypatch.setenv("TASKYARD_CONCURRENCY", "7")
    found = SettingsAside(grace=1.5).wait()
    assert found == Settings(grace=1.5)
    assert found.broker_url == Secret("amqp://user:pässword@host/")
    assert found.log_file == Path("some where/log")


def test_settings_that_no_child_can_tell_are_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number beyond 64 bits, or bytes that are no text, do not fit on the way."""
    monkeypatch.setenv("TASKYARD_SPOOL_LIMIT", str(2**70))
    monkeypatch.setenv("TASKYARD_LOG_FILE", "\udc80")
    found = SettingsAside().wait()
    assert (found.spool_limit, found.log_file) == (2**70, Path("\udc80"))


def test_wrong_settings_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of reading them here."""
    monkeypatch.setenv("TASKYARD_CONCURRENCY", "many")
    with pytest.raises(ConfigurationError, match="TASKYARD_CONCURRENCY: "):
        SettingsAside().wait()


def test_reading_aside_loads_no_pydantic() -> None:
    """That is what it is for."""
    code = (
        "import sys; from taskyard.shared.settings_aside import SettingsAside\n"
        "print(SettingsAside(concurrency=3).wait().concurrency, 'pydantic' in sys.modules)"
    )
    assert outside(code) == "3 False\n"


def test_queues_are_named_without_their_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with a module or a name is told in the words of whoever loads it."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "from taskyard.shared import Queue\na, b = Queue('aside-a'), Queue('aside-b')\n"
    (tmp_path / "aside_queues.py").write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from taskyard.shared.catalogue import name_queues\n"
        "print(name_queues(['aside_queues'], 'all'), name_queues(['aside_queues'], 'aside-b'))\n"
        "print('aside_queues' in sys.modules)"
    )
    assert outside(code) == "['aside-a', 'aside-b'] ['aside-b']\nFalse\n"
    with pytest.raises(ConfigurationError, match="unknown queue 'aside-c'"):
        name_queues(["aside_queues"], "aside-c")
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        name_queues(["aside_nowhere"], "all")


def test_settings_may_differ_in_some() -> None:
    """`but` changes what it is given, and refuses what is none."""
    settings = Settings(app="shop")
    assert settings.but(app="mail", spool_limit=2048).spool_limit == 2048
    assert settings.but().app == "shop"
    with pytest.raises(TypeError, match="no such setting: aap"):
        settings.but(aap="mail")
