"""Which PostgreSQL the tests can use on this machine, and as which user its server runs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

#: Debian keeps each release in a folder of its own here, and puts no server program on the PATH.
_DEBIAN_FOLDER = "/usr/lib/postgresql"

_PROGRAMS = ("postgres", "initdb", "psql")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresInstallation:
    """The programs of one PostgreSQL release."""

    folder: Path
    """Where `postgres`, `initdb` and `psql` are."""

    def program(self, name: str) -> str:
        """Return the path of one of its programs."""
        return str(self.folder / name)


def installed_postgres() -> PostgresInstallation | None:
    """Return the one whose `postgres` is on the PATH, else Debian's newest; None if there is none."""
    for folder in _folders():
        if all(os.access(folder / program, os.X_OK) for program in _PROGRAMS):
            return PostgresInstallation(folder=folder)
    return None


def server_user() -> str | None:
    """Return the user that the server has to run as; None is this process's own.

    Raises:
        LookupError: This process is root, which the server refuses to be, and there is no other.
    """
    if os.geteuid() != 0:
        return None
    known = {account.pw_name for account in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in known:
            return name
    raise LookupError("PostgreSQL refuses to run as root, and has no user `postgres` or `nobody`")


def _folders() -> list[Path]:
    releases = Path(_DEBIAN_FOLDER).glob("*/bin")
    newest_first = sorted(releases, key=_release_of, reverse=True)
    on_path = shutil.which("postgres")
    # A link on the PATH leads to the folder that has the other programs, too.
    return [Path(on_path).resolve().parent, *newest_first] if on_path else newest_first


def _release_of(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.parent.name))
