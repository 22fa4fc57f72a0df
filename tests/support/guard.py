"""A small process between a test and the programs it starts: it ends them when the test is gone.

Run as a script, with a JSON object as its argument: `processes` (a list of `argv`, `env`, `cwd`,
`output`, `user` and `ends_by`, started in order; the last is the main one) and `remove` (folders).
It prints the process ids as one JSON line. When its standard input ends, because its owner closed
it or died in whatever way, it ends everything it started, each with its signal `ends_by`, kills
what that leaves, and removes the folders. When the main process ends by itself, it prints how (as
`subprocess` counts: negative for a signal), ends the others and then itself. Standard library only,
and nothing of this project: it must start fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: How long orphans of a program that has ended get to end by themselves, in seconds.
ORPHANS_PATIENCE_S = 1.0
FILES = 65_536


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _before_exec() -> None:
    # Should this guard itself be killed, the kernel ends what it started.
    _control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # RabbitMQ 3.10 reserves file descriptors per quorum queue, and with a shell's usual 1024 hangs
    # at the fifth delay ladder.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = FILES if most == resource.RLIM_INFINITY else min(most, FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


def _start(process: dict[str, Any]) -> int:
    user = pwd.getpwnam(process["user"]) if process["user"] is not None else None
    with Path(process["output"]).open("ab") as output:
        # The hook before exec is safe, because nothing here has threads.
        started = subprocess.Popen(
            process["argv"],
            env=process["env"],
            cwd=process.get("cwd"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
            preexec_fn=_before_exec,
        )
    # From here on `_reap` collects it, with whatever else becomes our child.
    started.returncode = 0
    return started.pid


def _reap() -> dict[int, int]:
    """Collect the children that have ended; return their exit codes by process id."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _wait_for_owner_or_main(main: int, wakeup: int) -> int | None:
    """Return None when the owner is gone, the exit code when the main process has ended."""
    while True:
        ended = _reap()
        if main in ended:
            return ended[main]
        readable, _, _ = select.select([0, wakeup], [], [])
        if wakeup in readable:
            os.read(wakeup, 4096)
        if 0 in readable and not os.read(0, 4096):
            return None


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(OSError):
        return [int(pid) for pid in path.read_text().split()]
    return []


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _end_all(started: dict[int, int], *, patience_s: float) -> None:
    """End what was started, by the signals given, and what that left behind; it has become ours."""
    for pid, number in started.items():
        _signal(pid, number)
    until = time.monotonic() + patience_s
    while True:
        _reap()
        left = _children()
        if not left:
            return
        if time.monotonic() > until:
            for pid in left:
                _signal(pid, signal.SIGKILL)
        time.sleep(0.005)


def _say(words: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()


def main() -> int:
    """Run until the owner or the main process is gone."""
    order = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _control_process(PR_SET_CHILD_SUBREAPER, 1)
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)

    started = {_start(process): process["ends_by"] for process in order["processes"]}
    _say([*started])
    main_pid = [*started][-1]
    code = _wait_for_owner_or_main(main_pid, wakeup_read)
    if code is not None:
        del started[main_pid]
    killed = code is None and set(started.values()) == {signal.SIGKILL}
    _end_all(started, patience_s=0.0 if killed else ORPHANS_PATIENCE_S)
    if code is None:
        for folder in order["remove"]:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        _say(code)
    # The pipe may be closed already; nobody is left to be told.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
