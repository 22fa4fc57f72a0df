"""What an attack does when, drawn from a seed: the same seed attacks in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Strike:
    """One thing to do."""

    at_s: float
    """When, in seconds since the attack began."""
    kind: str
    victim: int
    """Which of those that it can hit: a number to be taken modulo how many there are."""
    for_s: float = 0.0
    """How long, where it is something that lasts."""


def schedule(
    seed: int, counts: Mapping[str, int], *, lasting_s: float, longest_s: float = 0.0
) -> list[Strike]:
    """Spread so many strikes of each kind over a time; each kind evenly, but at no fixed beat.

    Args:
        seed: what everything is drawn from.
        counts: how many of each kind.
        lasting_s: over how many seconds.
        longest_s: how long one that lasts may do so, in seconds; none takes less than half of it.
    """
    random = Random(seed)
    strikes = [
        Strike(
            (place + random.random()) * lasting_s / count,
            kind,
            random.randrange(1 << 16),
            longest_s * random.uniform(0.5, 1.0),
        )
        for kind, count in sorted(counts.items())
        for place in range(count)
    ]
    return sorted(strikes, key=lambda strike: strike.at_s)
