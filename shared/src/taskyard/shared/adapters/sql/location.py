"""Where the database is: what a `sqlite:` URL says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from taskyard.shared.errors import ConfigurationError

_SYNCHRONOUS: Final = ("normal", "full")


@dataclass(frozen=True, slots=True)
class Location:
    """A database file and how carefully it is written.

    Attributes:
        path: of the file, absolute.
        synchronous: `normal` or `full`; see the package's docstring.

    """

    path: Path
    synchronous: str = "normal"

    @property
    def owners(self) -> Path:
        """The folder of the files whose locks show who lives."""
        return self.path.with_name(f"{self.path.name}.owners")

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"


def parse(url: str) -> Location:
    """Read a URL: `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`.

    Args:
        url: `?synchronous=full` may follow the path.

    Raises:
        ConfigurationError: it names no file, or an option that does not exist.

    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path or path.startswith(":"):
        msg = (
            f"TASKYARD_BROKER_URL {url!r}: write sqlite:///relative/path.db or "
            "sqlite:////absolute/path.db (memory:// is the broker without a file)"
        )
        raise ConfigurationError(msg)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "normal").lower()
    if options or synchronous not in _SYNCHRONOUS:
        wrong = ", ".join(options) or f"synchronous={synchronous}"
        msg = (
            f"TASKYARD_BROKER_URL {url!r}: {wrong} is not an option of SQLite; "
            "synchronous=normal and synchronous=full are"
        )
        raise ConfigurationError(msg)
    return Location(Path(path).absolute(), synchronous)
