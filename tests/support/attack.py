"""How hard an attack is: in short, as every test run makes it, or in full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """Picks the figures of an attack: `size.of(short, full)`."""

    full: bool

    def of(self, short: T, full: T) -> T:
        """Return the figure of this size."""
        return full if self.full else short
