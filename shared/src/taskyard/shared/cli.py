"""The `taskyard` command: gathers the commands of whatever distributions are installed.

Each command is an entry point of group `taskyard.commands`, named by its path with dots
(`queues.pause`), so that two distributions can add to one group. Commands load when they run.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, cast

import click

from taskyard.shared import entry_points
from taskyard.shared.control import ControlUnavailable
from taskyard.shared.errors import (
    AlreadyRunning,
    ConfigurationError,
    Draining,
    InvalidArguments,
    JobError,
    NotFound,
    PublishError,
    PublishTimeout,
    ResultTimeout,
    TaskyardError,
    Unavailable,
    UnknownQueue,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP: Final = "taskyard.commands"

DONE: Final = 0
NO: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 69  # EX_UNAVAILABLE of sysexits.h
ALREADY_RUNNING: Final = 75  # EX_TEMPFAIL of sysexits.h
TIMED_OUT: Final = 124  # as timeout(1)
INTERRUPTED: Final = 130  # as shells report SIGINT

_GROUP_HELP: Final = {
    "broker": "Set a broker up, and look at how it is set up.",
    "drain": "Have producers send nothing new, while workers go on.",
    "queues": "Look at queues, pause and resume them, and set how much runs at once.",
    "parked": "Look at parked jobs; edit, release or discard them.",
    "jobs": "Look at jobs and control them.",
    "keys": "Keys for encrypted arguments.",
}


class CommandTree(click.Group):
    """A group whose commands are entry points below a path, loaded when asked for."""

    def __init__(self, path: str = "", **options: Any) -> None:
        """Gather the commands whose dotted name starts with `path`."""
        super().__init__(**options)
        self._path = path

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line, which may print help."""
        with _unread_output():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _unread_output():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of commands and sub-groups."""
        del ctx
        return sorted({name.split(".", 1)[0] for name in self._below()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command, or make the sub-group of that name."""
        del ctx
        command = entry_points.load(GROUP, self._path + cmd_name)
        if command is not None:
            return cast("click.Command", command)
        if any(name.startswith(f"{cmd_name}.") for name in self._below()):
            path = f"{self._path}{cmd_name}."
            return CommandTree(path, name=cmd_name, help=_GROUP_HELP.get(cmd_name, ""))
        return None

    def _below(self) -> set[str]:
        names = entry_points.names_of(GROUP)
        return {name.removeprefix(self._path) for name in names if name.startswith(self._path)}


def exit_code_of(error: TaskyardError) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(error, (ResultTimeout, PublishTimeout)):
        return TIMED_OUT
    if isinstance(error, (Unavailable, Draining, ControlUnavailable)):
        return UNAVAILABLE
    if isinstance(error, UnknownQueue):
        return NO  # it is a configuration error to a program; here, what was named is not there
    if isinstance(error, AlreadyRunning):
        return ALREADY_RUNNING
    if isinstance(error, (ConfigurationError, InvalidArguments)):
        return USAGE
    if isinstance(error, (NotFound, JobError, PublishError)):
        return NO
    return NO


def main(args: list[str] | None = None) -> None:
    """Run the command line; always ends by exiting (see the exit codes above)."""
    root = CommandTree(
        name="taskyard",
        help="Taskyard: a distributed worker cluster on RabbitMQ, or on one file.",
        context_settings={
            "auto_envvar_prefix": "TASKYARD",
            "help_option_names": ["-h", "--help"],
            "show_default": True,
        },
    )
    # The version is looked up when it is asked for: that takes `importlib.metadata`.
    root = click.version_option(package_name="taskyard-shared", prog_name="taskyard")(root)
    try:
        _require_text(sys.argv[1:] if args is None else args)
        # Without standalone mode click returns the code of an Exit instead of exiting with it.
        code = root.main(args=args, prog_name="taskyard", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else DONE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        sys.exit(INTERRUPTED)
    except TaskyardError as error:
        complain(str(error))
        sys.exit(exit_code_of(error))


def _require_text(words: list[str]) -> None:
    """Refuse what is no text: it could neither be sent, nor stored, nor printed."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"{word!a} is not text in UTF-8") from None


def complain(text: str) -> None:
    """Say something on standard error; a terminal that was closed must not end what goes on."""
    with suppress(OSError):
        click.echo(f"taskyard: {text}", err=True)


@contextmanager
def _unread_output() -> Iterator[None]:
    """End in good order when whoever read our output has seen enough (`| head`), or has gone."""
    try:
        yield
    except OSError:
        gone = [number for number in (1, 2) if _has_no_reader(number)]
        if not gone:
            raise
        # What is still in a buffer would be written at the end, and complained about.
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a device, not a path
            for number in gone:
                os.dup2(nowhere.fileno(), number)
        raise click.exceptions.Exit(DONE) from None


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))  # without being asked for anything it reports errors alone


if __name__ == "__main__":
    main()
