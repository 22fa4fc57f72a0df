"""Settings, read in a child process while this one does something else.

What reads them (pydantic) is 10 MiB and a tenth of a second. A worker reads them once and then runs
for days, so this process gets the values alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec

from taskyard.shared.aside import Aside
from taskyard.shared.secret import Secret
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class SettingsAside:
    """Being read from its construction on."""

    def __init__(self, **given: object) -> None:
        """Begin to read the environment; `given` overrides it."""
        self._given = given
        self._aside = Aside(self._read)

    def wait(self) -> Settings:
        """Return the settings.

        Raises:
            ConfigurationError: a variable is not valid; the text names it.

        """
        raw = self._aside.wait()
        return _decode(raw) if raw else Settings(**self._given)

    def _read(self) -> bytes:
        from taskyard.shared.settings_reader import read

        return msgspec.json.encode(read(self._given), enc_hook=_plain)


def _plain(value: object) -> str:
    return cast("Secret[str]", value).reveal() if isinstance(value, Secret) else str(value)


def _made(kind: Callable[[object], object], value: object) -> object:
    return kind(value)


_decode: Final = msgspec.json.Decoder(Settings, dec_hook=_made).decode
