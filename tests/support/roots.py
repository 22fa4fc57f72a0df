"""Which RabbitMQ installations the tests can use on this machine.

The system's own, where there is one, and every folder that `TASKYARD_TEST_RABBITMQ_ROOTS` lists as
`NAME=FOLDER` pairs with colons between them: a folder holds a whole system (as debootstrap makes
it, with `/dev` and `/proc` mounted) into which a node is started with chroot, which needs root.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOTS_VARIABLE = "TASKYARD_TEST_RABBITMQ_ROOTS"

#: Where the launch script of the server proper may be, below a root. The `rabbitmq-server` on the
#: path of a Debian system is a wrapper that changes the user, so it comes last.
_SCRIPT_PLACES = (
    "usr/lib/rabbitmq/bin",
    "opt/rabbitmq/sbin",
    "usr/local/sbin",
    "opt/homebrew/sbin",
    "usr/sbin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQRoot:
    """One installation of RabbitMQ."""

    name: str
    """What tests call it, usually the release, such as `4.3`."""
    folder: Path | None
    """The folder to chroot into; None is the system itself."""
    scripts: str
    """The folder of `rabbitmq-server` and `rabbitmqctl`, as seen from inside the root."""

    @property
    def base(self) -> Path:
        """The root of this installation's file system, as seen from outside."""
        return self.folder or Path("/")

    def outside(self, inside: str) -> Path:
        """Translate a path inside the root to the path by which this process reaches it."""
        return self.base / inside.lstrip("/")

    def argv(self, *command: str) -> list[str]:
        """Return the command line that runs `command` inside this root."""
        if self.folder is None:
            return list(command)
        return [shutil.which("chroot") or "/usr/sbin/chroot", str(self.folder), *command]


def installed_roots(environment: Mapping[str, str] | None = None) -> list[RabbitMQRoot]:
    """List the installations, the system's own first.

    Args:
        environment: Where to look for `TASKYARD_TEST_RABBITMQ_ROOTS`; the process's own by default.

    Raises:
        ValueError: The variable is not a list of `NAME=FOLDER`, or a folder holds no RabbitMQ.
    """
    settings = os.environ if environment is None else environment
    roots: list[RabbitMQRoot] = []
    if (own := _scripts_in(Path("/"))) is not None:
        name = _release_of(Path("/") / own.lstrip("/")) or "system"
        roots.append(RabbitMQRoot(name=name, folder=None, scripts=own))
    for pair in filter(None, settings.get(ROOTS_VARIABLE, "").split(":")):
        name, equals, folder = pair.partition("=")
        scripts = _scripts_in(Path(folder)) if equals else None
        if scripts is None:
            raise ValueError(f"{ROOTS_VARIABLE}: {pair!r} is not NAME=FOLDER of a RabbitMQ")
        roots.append(RabbitMQRoot(name=name, folder=Path(folder), scripts=scripts))
    return roots


def find_root(name: str) -> RabbitMQRoot:
    """Return the installation called `name`; `system` is the system's own.

    Raises:
        LookupError: There is none of that name; the message lists the names there are.
    """
    roots = installed_roots()
    for root in roots:
        if root.name == name or (name == "system" and root.folder is None):
            return root
    known = ", ".join(root.name for root in roots) or "none"
    raise LookupError(f"no RabbitMQ root {name!r}; installed: {known} (see {ROOTS_VARIABLE})")


def _scripts_in(base: Path) -> str | None:
    for place in _SCRIPT_PLACES:
        if (base / place / "rabbitmq-server").exists():
            return f"/{place}"
    return None


def _release_of(scripts: Path) -> str | None:
    """Read the release out of the folder name that every package of RabbitMQ uses."""
    for path in ((scripts / "rabbitmq-server").resolve(), *scripts.parent.glob("lib/*")):
        if found := re.search(r"rabbitmq_server-(\d+\.\d+)\.", str(path)):
            return found.group(1)
    return None
