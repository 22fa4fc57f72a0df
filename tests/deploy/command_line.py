"""What the real command line and the real settings know, to hold deployments against."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

import click

from taskyard.shared.cli import CommandTree
from taskyard.shared.settings import NAMES, PREFIX

#: Looks like one of our variables, wherever it stands in a text.
VARIABLE = re.compile(r"\bTASKYARD_[A-Z][A-Z0-9_]*\b")


def root() -> CommandTree:
    """The `taskyard` command with everything that is installed."""
    return CommandTree(name="taskyard", context_settings={"help_option_names": ["-h", "--help"]})


def check_command(argv: Sequence[str]) -> None:
    """Parse a command line without running it.

    Args:
        argv: what follows `taskyard`.

    Raises:
        click.ClickException: the command, an option or a value is not what the program takes.
    """
    command: click.Command = root()
    context = click.Context(command, info_name="taskyard")
    rest = list(argv)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no such command: {name} (in {' '.join(argv)})")
        command = found
    if isinstance(command, click.Group):
        assert rest in (["--help"], ["-h"]), f"{' '.join(argv)}: a group without a command"
        return
    try:
        command.make_context(command.name, rest)
    except click.exceptions.Exit:
        assert "--help" in rest


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield every `taskyard …` command line that stands in console blocks or notes."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        found = re.search(
            r"(?:(?:^\s*|-- |exec(?: -\S+)* \S+ )taskyard|compose run --rm \w+) (\S.*)$", line
        )
        if found:
            yield shlex.split(found[1], comments=True)


def known_variables() -> frozenset[str]:
    """Return every variable that the program reads: settings, their files, and options."""
    settings = {f"{PREFIX}{name.upper()}" for name in NAMES}
    files = {f"{name}_FILE" for name in settings}
    return frozenset(settings | files | set(_options(root(), PREFIX)))


def _options(command: click.Command, prefix: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _options(below, f"{prefix}{name.upper().replace('-', '_')}_")
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name:
            yield f"{prefix}{parameter.name.upper()}"
