"""The task `shell.run`: a job that is a command on the worker's machine, without a shell.

    from taskyard.workers.builtin import commands

    run = commands.add_to(queue, allow=["/usr/bin/convert"])    # nothing allowed: disabled
    producer.send(run, command=["convert", "a.png", "b.jpg"])

Operators without Python name `taskyard.workers.builtin.shell` instead. The list says which programs
may be started; their arguments are the sender's. Whoever allows a program that starts others (a
shell, `env`, `find`) allows everything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from taskyard.shared.context import Context
from taskyard.shared.errors import ConfigurationError, InvalidArguments
from taskyard.shared.outcomes import Hold
from taskyard.workers.builtin.subprocesses import CommandFailed, Finished, execute

if TYPE_CHECKING:
    from taskyard.shared.duration import Duration
    from taskyard.shared.retry import RetryPolicy
    from taskyard.shared.task import Queue, Task

#: Variables by which loaders, shells and interpreters are made to run something else.
_STEERING: Final = frozenset({"PATH", "IFS", "ENV", "HOME", "SHELL", "EDITOR", "PAGER"})
_STEERING_PREFIXES: Final = (
    *("LD_", "DYLD_", "GCONV_", "GLIBC_", "MALLOC_", "BASH", "SHELLOPTS", "GIT_", "LESS"),
    *("PYTHON", "PERL", "RUBY", "NODE_", "JAVA_", "JDK_", "_JAVA_", "PHP"),
)
#: Most characters of standard error that an error's text repeats.
_SAID = 1000


class Output(TypedDict):
    """The result of `shell.run`.

    Keys:
        exit_code: 0.
        stdout: its first 64 KiB; a last line says how much was cut.
        stderr: its last 64 KiB; a first line says how much was cut.
    """

    exit_code: int
    stdout: str
    stderr: str


def add_to(
    queue: Queue[Any],
    *,
    allow: Sequence[str],
    env: Mapping[str, str] | None = None,
    name: str = "shell.run",
    ttr: Duration | None = None,
    retry: RetryPolicy | None = None,
) -> Task[..., Output]:
    """Declare `shell.run` as a task of a queue.

    Args:
        queue: takes the task.
        allow: commands that it may run: absolute paths, or names, which are looked up on the
            worker's PATH when they are run. Empty disables it.
        env: the whole environment of its commands, beside what a job gives; a job changes none of it.
        name: of the task.
        ttr: time to run (seconds or text); None takes the queue's.
        retry: the policy of the task; None takes the queue's.

    Raises:
        ConfigurationError: an entry of `allow` is neither a name nor an absolute path.

    """
    handler = _handler(read_list(allow), dict(env or {}))
    return queue.add(handler, name=name, ttr=ttr, retry=retry)


def _handler(
    allowed: Sequence[str], base: Mapping[str, str]
) -> Callable[..., Coroutine[Any, Any, Output]]:
    async def run(
        ctx: Context,
        command: list[str],
        env: dict[str, str] | None = None,
        cwd: str = "/",
        stdin: str = "",
    ) -> Output:
        """Run a command, and succeed if it exits with 0.

        Args:
            ctx: of the job.
            command: an allowed program and its arguments.
            env: variables beside those that the operator gives.
            cwd: the folder that it starts in.
            stdin: what it reads.

        """
        if not command or any("\0" in part for part in (*command, *(env or {}).values(), cwd)):
            raise InvalidArguments(ctx.task, "command must name a program; no text may hold NUL")
        program = program_of(command[0], allowed)
        for key in env or {}:
            if key in base or not _is_harmless(key):
                raise Hold(f"shell.run takes no variable {key!r} from a job")
        done = await execute(
            program, command[1:], env={**base, **(env or {})}, cwd=cwd, stdin=stdin.encode()
        )
        if done.exit_code:
            raise CommandFailed(_complaint(command[0], done))
        return Output(exit_code=0, stdout=done.stdout, stderr=done.stderr)

    return run


def read_list(allow: Sequence[str]) -> tuple[str, ...]:
    """Read an allow-list of commands: names and absolute paths.

    Raises:
        ConfigurationError: an entry is neither.

    """
    for entry in allow:
        if not entry.strip() or ("/" in entry and not Path(entry).is_absolute()):
            msg = f"shell.run: {entry!r} cannot be allowed; give a name, or an absolute path"
            raise ConfigurationError(msg)
    return tuple(allow)


def program_of(command: str, allowed: Sequence[str]) -> str:
    """Return the absolute path of an allowed command, named as in the list, or by its name or path.

    Raises:
        Hold: it is not allowed here, or does not exist here; the job waits for the operator.

    """
    if not allowed:
        msg = (
            "shell.run is disabled here: nothing is allowed; name the commands that jobs may run "
            "(TASKYARD_SHELL_ALLOW, a comma list, or add_to(queue, allow=[…])), then release the job"
        )
        raise Hold(msg)
    for entry in allowed:
        path = shutil.which(entry)
        if command not in {entry, Path(entry).name, path}:
            continue
        if path is None:
            raise Hold(f"shell.run: {entry!r} is allowed, but there is no such command here")
        return str(Path(path).absolute())
    known = ", ".join(sorted(allowed))
    msg = f"shell.run may not run {command!r} here; its operator allows {known}"
    raise Hold(msg)


def _is_harmless(variable: str) -> bool:
    """Refuse what is no name, and what is known to make an allowed program run another one."""
    return (
        bool(variable)
        and not {"=", "\0"} & set(variable)
        and variable not in _STEERING
        and not variable.startswith(_STEERING_PREFIXES)
    )


def _complaint(name: str, done: Finished) -> str:
    code = done.exit_code
    how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
    said = done.stderr.strip()[-_SAID:]
    return f"{name} {how}: {said}" if said else f"{name} {how}"
