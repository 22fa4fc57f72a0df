"""The task `shell.run` with real commands (ZS-06)."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.eventually import eventually
from support.workbench import Workbench
from taskyard.shared import ConfigurationError, Hold, Queue, RetryPolicy
from taskyard.shared.control import cancel_record
from taskyard.workers.builtin import commands
from taskyard.workers.builtin.subprocesses import OUTPUT_LIMIT_BYTES

ALLOW = ("echo", "env", "cat", "pwd", "sh", sys.executable)


class Bench(Workbench):
    """A workbench with `shell.run` on a queue named shell."""

    def __init__(self, folder, *, allow=ALLOW, attempts: int = 1, env=None) -> None:
        policy = RetryPolicy(attempts=attempts, first=0.05, factor=1, jitter="none")
        self.shell = Queue("shell", retry=policy)
        self.run = commands.add_to(self.shell, allow=allow, env=env)
        super().__init__(self.shell, folder=folder)

    async def end(self, *command: str, **arguments: Any):
        """Run a command and return the record of its end."""
        (job_id,) = await self.send(self.run.job(command=list(command), **arguments))
        return await self.ended_job(job_id)

    async def ended_job(self, job_id: str):
        async def ended():
            return [
                r
                for r in await self.records(job_id)
                if r.event == "finished" and r.outcome != "retried"
            ]

        (record,) = await eventually(ended, within=20)
        return record

    async def value(self, *command: str, **arguments: Any) -> dict[str, Any]:
        end = await self.end(*command, **arguments)
        assert end.outcome == "succeeded", end.error
        return json.loads(bytes(end.value))


async def test_arguments_are_no_shell_text(tmp_path):
    """ZS-06: each argument arrives as it is; nothing is split, expanded or substituted."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        assert bench.run.name == "shell.run"
        value = await bench.value("echo", "a b", "$HOME", "`id`", "*", "; ls")
        assert value == {"exit_code": 0, "stdout": "a b $HOME `id` * ; ls\n", "stderr": ""}


async def test_the_environment_is_what_is_given(tmp_path, monkeypatch):
    """ZS-06: nothing of the worker's own but what its operator hands on, and what the job gives."""
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "x")
    async with Bench(tmp_path, env={"LANG": "C"}) as bench:
        await bench.worker()
        assert (await bench.value("env"))["stdout"] == "LANG=C\n"
        value = await bench.value("env", env={"A": "1", "B": "a b"})
        assert sorted(value["stdout"].splitlines()) == ["A=1", "B=a b", "LANG=C"]
        for variable in ("LANG", "PATH", "LD_PRELOAD", "BASH_ENV", "BASH_FUNC_ls%%", "A=B", ""):
            end = await bench.end("env", env={variable: "x"})
            assert (end.outcome, end.detail) == ("parked", "held"), variable


async def test_folder_and_standard_input(tmp_path):
    """ZS-06: it starts in the folder and reads the text that the job gives."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        assert (await bench.value("pwd"))["stdout"] == "/\n"
        assert (await bench.value("pwd", cwd=str(tmp_path)))["stdout"] == f"{tmp_path}\n"
        assert (await bench.value("cat", stdin="ü" * 100_000))["stdout"].startswith("ü" * 1000)
        assert (await bench.value("echo", "x", stdin="y" * 1_000_000))["stdout"] == "x\n"
        end = await bench.end("pwd", cwd="/nowhere")
        assert "cannot be started in /nowhere" in end.error.message


async def test_another_exit_code_is_an_error(tmp_path):
    """ZS-06, ZS-43: retried by the policy, then parked with the code and what it said last."""
    async with Bench(tmp_path, attempts=2) as bench:
        await bench.worker()
        end = await bench.end("sh", "-c", "echo out; echo why >&2; exit 3")
        assert (end.outcome, end.detail, end.attempt) == ("parked", "exhausted", 2)
        assert end.error.message == "sh exited with 3: why"
        end = await bench.end("sh", "-c", "kill -9 $$")
        assert end.error.message == "sh was killed by signal 9"


async def test_output_is_cut_and_says_so(tmp_path):
    """ZS-06: of standard output the beginning is kept, of standard error the end."""
    script = "import sys; sys.stdout.write('o' * 200000); sys.stderr.write('e' * 200000 + '!')"
    async with Bench(tmp_path) as bench:
        await bench.worker()
        value = await bench.value(sys.executable, "-c", script)
        cut = 200_000 - OUTPUT_LIMIT_BYTES
        assert value["stdout"] == "o" * OUTPUT_LIMIT_BYTES + f"\n… ({cut} bytes cut)"
        assert value["stderr"].startswith(f"… ({cut + 1} bytes cut)\ne")
        assert value["stderr"].endswith("e!")


async def test_what_is_not_allowed_is_held(tmp_path):
    """ZS-06: by another name or path, or none at all; the text names what is allowed."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        for command in ("ls", "/bin/ls", "./echo", ""):
            end = await bench.end(command)
            assert (end.outcome, end.detail) == ("parked", "held"), command
        assert "its operator allows" in (await bench.parking("shell"))[0].detail
        assert (await bench.end()).detail == "invalid"


@pytest.mark.parametrize("end", ["time up", "aborted", "handed back"])
async def test_the_whole_group_is_killed(tmp_path, end):
    """ZS-06, ZS-14: with its children, and though they ignore the polite signal."""
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$ >> {pids}; while :; do :; done\" & "
    script += f"echo $$ >> {pids}; while :; do :; done"
    async with Bench(tmp_path, env={"PATH": os.defpath}) as bench:
        worker = await bench.worker(grace_s=0.0)
        job = bench.run.job(command=["sh", "-c", script])
        (job_id,) = await bench.send(job.options(ttr=1 if end == "time up" else 60))
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        if end == "aborted":
            await bench.intend(cancel_record(job_id, by="ann", at_ms=1, abort=True))
        elif end == "handed back":
            worker.stop()
        record = await bench.ended_job(job_id)
        expected = {"time up": "parked", "aborted": "cancelled", "handed back": "handed_back"}
        assert record.outcome == expected[end]
        for pid in pids.read_text().split():
            await eventually(partial(_is_gone, pid))


def _is_gone(pid: str) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


async def test_what_a_command_leaves_behind_does_not_hold_it(tmp_path):
    """ZS-06: a background process that keeps the pipes open ends with the command."""
    async with Bench(tmp_path) as bench:
        await bench.worker()
        for quiet in ("", " >/dev/null 2>&1 </dev/null"):
            value = await bench.value("sh", "-c", f"(while :; do :; done){quiet} & echo $!")
            await eventually(partial(_is_gone, value["stdout"].strip()))


@pytest.mark.parametrize(
    ("allow", "problem"),
    [([], "is disabled here"), (["no-such-command"], "there is no such command here")],
)
async def test_it_is_off_unless_commands_are_named(tmp_path, allow, problem):
    """ZS-06: nothing allowed, or a command that is missing: a refusal in words, and nothing is lost."""
    async with Bench(tmp_path, allow=allow) as bench:
        await bench.worker()
        end = await bench.end("no-such-command")
        assert (end.outcome, end.detail) == ("parked", "held")
        (parking,) = await bench.parking("shell")
        assert problem in parking.detail


@pytest.mark.parametrize("entry", ["", " ", "./tool", "bin/tool"])
def test_what_cannot_be_allowed(entry):
    """ZS-06: a path that depends on where the worker was started stops it, in words."""
    with pytest.raises(ConfigurationError, match="cannot be allowed"):
        commands.add_to(Queue("off"), allow=[entry])


def test_a_command_is_found_by_its_name_and_by_its_path():
    """ZS-06: whichever of the two the operator gave; never by another path."""
    path = commands.program_of("echo", ["echo"])
    assert Path(path).is_absolute()
    for named, allowed in (("echo", path), (path, path), (path, "echo")):
        assert commands.program_of(named, [allowed]) == path
    with pytest.raises(Hold, match="its operator allows echo"):
        commands.program_of("/tmp/echo", ["echo"])


def test_the_name_follows_the_queue():
    """A developer embeds it in any queue, beside the application's own tasks."""
    queue = Queue("ops")
    assert commands.add_to(queue, allow=["echo"]).name == "ops.shell.run"
    assert queue.find("shell.run").short_name == "shell.run"
