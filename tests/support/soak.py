"""Memory watched over the work of a long run: samples, their curve by tenths, and how far it rises."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from support.process import Program

MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """What a program held when it had done so much."""

    done: int
    at_s: float
    pss: int
    """Proportional bytes, over the process tree; moves a little with what else the machine runs."""
    anonymous: int
    """Of these, what it has allocated itself."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The samples of a run that did `total` things, cut into tenths of the work."""

    total: int
    samples: Sequence[Sample]

    def tenth(self, number: int) -> list[Sample]:
        """Return the samples of a tenth, 1 to 10; the nearest one where it has none."""
        low, high = (number - 1) * self.total / 10, number * self.total / 10
        inside = [sample for sample in self.samples if low < sample.done <= high]
        return inside or [min(self.samples, key=lambda sample: abs(sample.done - high))]

    def pss(self, number: int) -> float:
        """Return the median of proportional bytes in a tenth."""
        return statistics.median(sample.pss for sample in self.tenth(number))

    def anonymous(self, number: int) -> float:
        """Return the median of allocated bytes in a tenth."""
        return statistics.median(sample.anonymous for sample in self.tenth(number))

    def growth(self, after: int = 1) -> float:
        """Return how many allocated bytes came after a tenth: from its end to the last tenth."""
        return self.anonymous(10) - self.tenth(after)[-1].anonymous

    def relative_growth(self, after: int = 1) -> float:
        """Return how far proportional memory rose after a tenth, as a share of what it was."""
        return self.pss(10) / self.tenth(after)[-1].pss - 1

    @property
    def rate(self) -> float:
        """Things done per second, from the first sample to the last."""
        first, last = self.samples[0], self.samples[-1]
        return (last.done - first.done) / max(last.at_s - first.at_s, 0.001)

    def __str__(self) -> str:
        pss = " ".join(f"{self.pss(number) / MIB:.2f}" for number in range(1, 11))
        anonymous = " ".join(f"{self.anonymous(number) / MIB:.2f}" for number in range(1, 11))
        return (
            f"{self.samples[-1].done:,} of {self.total:,} at {self.rate:,.0f}/s; "
            f"PSS by tenths, MiB: {pss} ({self.relative_growth():+.2%}); "
            f"allocated: {anonymous} ({self.growth() / MIB:+.2f})"
        )


async def watch(
    programs: Sequence[Program],
    done: Callable[[], Awaitable[int]],
    total: int,
    *,
    every_s: float,
    within_s: float,
) -> list[Curve]:
    """Sample programs until they have done `total` things together; return a curve of each.

    Raises:
        AssertionError: they have not, in time, or one has ended.
    """
    samples: list[list[Sample]] = [[] for _ in programs]
    began_s, number = time.monotonic(), 0
    while number < total:
        number, at_s = await done(), time.monotonic() - began_s
        assert at_s < within_s, f"{number} of {total} after {at_s:.0f} s"
        for program, taken in zip(programs, samples, strict=True):
            assert program.is_running, program.output[-4000:]
            pss, anonymous = program.proportional_bytes(), program.anonymous_bytes()
            taken.append(Sample(number, at_s, pss, anonymous))
        await asyncio.sleep(every_s)
    return [Curve(total, taken) for taken in samples]
