"""Entry points by name: what installed distributions add to Taskyard.

`importlib.metadata` knows them all, but brings 2 to 4 MiB of modules (among them `email`) that a
worker would keep for one look at its start. Who wants one point by its name gets it from the
distributions' files; who wants them all, or one that is in no file, asks `importlib.metadata`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def load(group: str, name: str) -> Any | None:
    """Return what the entry point `name` of `group` stands for; None where nobody offers it."""
    found = (point_in(text, group, name) for text in _files(sys.path))
    words = next(filter(None, found), None) or names_of(group).get(name)
    return None if words is None else _load(words)


def names_of(group: str) -> dict[str, str]:
    """Return the entry points of a group: by name, where each is to be found."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=group)}


def point_in(text: str, group: str, name: str) -> str | None:
    """Return where an entry point is to be found, given the file of a distribution."""
    here = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            here = line == f"[{group}]"
        elif here:
            found, equals, words = line.partition("=")
            if equals and found.strip() == name:
                return words.strip()
    return None


def _files(path: list[str]) -> Iterator[str]:
    for place in path:  # those that are no folder hold none that could be read so simply
        for file in Path(place).glob("*.dist-info/entry_points.txt"):
            with suppress(OSError, UnicodeDecodeError):
                yield file.read_text(encoding="utf-8")


def _load(words: str) -> Any:
    """Import what `module:attribute [extras]` names."""
    module, _, attributes = words.partition("[")[0].strip().partition(":")
    found: Any = import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found
