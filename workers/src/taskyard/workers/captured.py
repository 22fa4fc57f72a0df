"""One attempt's output: what it printed and logged, as far as it is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Captured:
    """The beginning of what was written, and how much more there was."""

    __slots__ = ("_left", "_omitted", "_pieces")

    def __init__(self, limit_bytes: int) -> None:
        """Keep at most so many bytes."""
        self._pieces: list[str] = []
        self._left = limit_bytes
        self._omitted = 0

    def write(self, text: str) -> None:
        """Take text; from any thread."""
        size = len(text) if text.isascii() else len(_bytes(text))
        # Threads that write at once may each have taken what was left: less than nothing is left.
        left = max(self._left, 0)
        if size > left:
            kept = _bytes(text)[:left].decode("utf-8", "ignore")
            self._omitted += size - len(_bytes(kept))
            size, text = left, kept
        self._left -= size
        if text:
            self._pieces.append(text)

    def text(self) -> str:
        """Return it, marked where it was cut."""
        text = _bytes("".join(self._pieces)).decode("utf-8", "replace")
        if self._omitted:
            text += f"\n[{self._omitted} bytes more were left out]"
        return text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def line_of(at_s: float, level: str, logger: str, event: str, fields: Mapping[str, object]) -> str:
    """Return a log line as people read it in a job's output."""
    at = datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%S.%f")[:-3]
    words = [f"{at} {level.lower()} {logger}: {event}"]
    words += [f"{name}={value!r}" for name, value in fields.items()]
    return " ".join(words) + "\n"
