"""When a failed attempt is tried again: the retry policy, a pure function of the attempt."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol

import msgspec

from taskyard.shared.duration import LONGEST_S
from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.errors import ConfigurationError

Jitter = Literal["full", "none"]


class Random(Protocol):
    """The one thing needed of a random source."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how late a failed attempt is repeated.

    Attributes:
        attempts: attempts in all, the first included (1 means never retry).
        first: seconds before the second attempt.
        factor: by which each further gap grows (1 keeps it fixed).
        cap: the longest gap, in seconds.
        jitter: `full` draws each gap evenly from zero to its length, so that jobs that failed
            together do not return together (AWS Architecture Blog, "Exponential Backoff And
            Jitter", 2015); `none` keeps it exact.

    """

    attempts: int = 3
    first: float = 5.0
    factor: float = 2.0
    cap: float = 600.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        """Refuse values that make no sense, naming the one that is wrong."""
        if self.attempts < 1:
            msg = f"RetryPolicy(attempts={self.attempts}): at least 1"
            raise ConfigurationError(msg)
        if not (0 <= self.first <= LONGEST_S and 0 <= self.cap <= LONGEST_S):
            msg = f"RetryPolicy(first={self.first}, cap={self.cap}): seconds, from 0 to a century"
            raise ConfigurationError(msg)
        if not 1 <= self.factor < inf:
            msg = f"RetryPolicy(factor={self.factor}): at least 1"
            raise ConfigurationError(msg)
        if self.jitter not in ("full", "none"):
            msg = f"RetryPolicy(jitter={self.jitter!r}): 'full' or 'none'"
            raise ConfigurationError(msg)

    def allows(self, failed: int) -> bool:
        """Tell whether a further attempt is allowed after `failed` failed ones."""
        return failed < self.attempts

    def gap_ms(self, failed: int, rng: Random) -> int:
        """Return the milliseconds to wait after the `failed`-th failed attempt (counted from 1)."""
        try:
            gap_s = min(self.first * self.factor ** (failed - 1), self.cap)
        except OverflowError:  # far beyond any cap
            gap_s = self.cap if self.first else 0.0
        if self.jitter == "full":
            gap_s *= rng.random()
        return round(gap_s * 1000)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(RetryPolicy)


def encode_policy(policy: RetryPolicy) -> str:
    """Return the policy as the JSON text of the header `ty-retry`."""
    return _ENCODER.encode(policy).decode()


def decode_policy(text: str) -> RetryPolicy:
    """Read the header `ty-retry`.

    Raises:
        ConfigurationError: it is not a policy.

    """
    try:
        return _DECODER.decode(text)
    except UNREADABLE as error:
        msg = f"header ty-retry {text[:200]!r} is not a retry policy: {error}"
        raise ConfigurationError(msg) from error
