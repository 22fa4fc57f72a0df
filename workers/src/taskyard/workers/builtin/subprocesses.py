"""A command as a process group: started without a shell, read within bounds, ended as a whole."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

#: Most bytes of each stream that are kept.
OUTPUT_LIMIT_BYTES: Final = 64 * 1024
#: Seconds that a group gets between SIGTERM and SIGKILL; less than the worker's own patience.
TERM_S: Final = 1.0
#: Seconds that what the command left behind may still write after it has ended.
_LINGER_S: Final = 0.5
#: Seconds between two looks whether it has ended while its pipes are open.
_LOOK_S: Final = 0.1
_CHUNK: Final = 65536


class CommandFailed(Exception):
    """The command could not be started, was killed, or exited with another code than 0."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code (minus a signal's number), and what it said."""

    exit_code: int
    stdout: str
    stderr: str


class _Head:
    """Keeps the beginning of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = 0

    def add(self, data: bytes) -> None:
        room = OUTPUT_LIMIT_BYTES - len(self._kept)
        self._kept += data[:room]
        self._cut += max(len(data) - room, 0)

    def text(self) -> str:
        text = self._kept.decode("utf-8", "replace")
        return f"{text}\n… ({self._cut} bytes cut)" if self._cut else text


class _Tail:
    """Keeps the end of a stream."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._cut = 0

    def add(self, data: bytes) -> None:
        self._kept += data
        over = max(len(self._kept) - OUTPUT_LIMIT_BYTES, 0)
        del self._kept[:over]
        self._cut += over

    def text(self) -> str:
        text = self._kept.decode("utf-8", "replace")
        return f"… ({self._cut} bytes cut)\n{text}" if self._cut else text


async def execute(
    program: str, arguments: Sequence[str], *, env: Mapping[str, str], cwd: str, stdin: bytes
) -> Finished:
    """Run a program to its end; when this is cancelled, its whole process group is killed.

    Raises:
        CommandFailed: it could not be started.

    """
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=env,
            cwd=cwd,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{program} cannot be started in {cwd}: {error.strerror}") from error
    head, tail = _Head(), _Tail()
    talking = asyncio.create_task(_talk(process, head, tail, stdin), name="talk to a command")
    try:
        await _ended(process, talking)
    except BaseException:
        await _end(process, talking)
        raise
    finally:
        _signal(process, signal.SIGKILL)  # what is left of the group ends with the command
        if not talking.done():
            await asyncio.wait({talking}, timeout=_LINGER_S)
        talking.cancel()
    return Finished(process.returncode or 0, head.text(), tail.text())


async def _ended(process: asyncio.subprocess.Process, talking: asyncio.Task[None]) -> None:
    """Wait for a command's exit, and for a moment until what it left behind has been quiet.

    Some versions of asyncio's `wait` wait for the pipes, too, which a background process of the
    command's keeps open.
    """
    while process.returncode is None and not talking.done():
        await asyncio.wait({talking}, timeout=_LOOK_S)
    if process.returncode is None:
        await process.wait()
    elif not talking.done():
        await asyncio.wait({talking}, timeout=_LINGER_S)


async def _end(process: asyncio.subprocess.Process, talking: asyncio.Task[None]) -> None:
    """Ask a group to end, and kill what is left of it."""
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(TERM_S):
            await _ended(process, talking)
    except TimeoutError:
        pass
    finally:
        _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # no one of the group is left
        os.killpg(process.pid, number)


async def _talk(
    process: asyncio.subprocess.Process, head: _Head, tail: _Tail, stdin: bytes
) -> None:
    await asyncio.gather(
        _read(process.stdout, head), _read(process.stderr, tail), _write(process.stdin, stdin)
    )


async def _read(stream: asyncio.StreamReader | None, kept: _Head | _Tail) -> None:
    while stream is not None and (data := await stream.read(_CHUNK)):
        kept.add(data)


async def _write(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # it does not want to read it all
        stream.write(data)
        await stream.drain()
    stream.close()
