"""Prometheus' text format, version 0.0.4: metric families as lines.

prometheus-client would write the same, with 2 to 5 MiB of modules that a worker otherwise has no
use for (a web server among them). The tests read what is written here with its parser.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_IN_LABELS: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_IN_HELP: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})


def heading(name: str, kind: str, explained: str) -> Iterator[str]:
    """Yield what comes before the samples of a family."""
    yield f"# HELP {name} {explained.translate(_IN_HELP)}\n"
    yield f"# TYPE {name} {kind}\n"


def sample(name: str, names: Iterable[str], values: Iterable[str], value: float) -> str:
    """Return the line of one sample, given the names and values of its labels."""
    labels = ",".join(
        f'{label}="{text.translate(_IN_LABELS)}"'
        for label, text in sorted(zip(names, values, strict=True))
    )
    return f"{name}{{{labels}}} {number(value)}\n" if labels else f"{name} {number(value)}\n"


def histogram(
    name: str,
    names: tuple[str, ...],
    values: tuple[str, ...],
    *,
    bounds: Sequence[float],
    counts: Sequence[int],
    total: float,
) -> Iterator[str]:
    """Yield the lines of one histogram.

    Args:
        name: of the family.
        names: of its labels.
        values: of its labels.
        bounds: upper ones of the buckets but the last, which has none.
        counts: observations in each bucket, one more than bounds.
        total: of all that was observed.

    """
    inside = list(accumulate(counts))
    for bound, below in zip((*bounds, math.inf), inside, strict=True):
        yield sample(f"{name}_bucket", (*names, "le"), (*values, number(bound)), below)
    yield sample(f"{name}_count", names, values, inside[-1])
    yield sample(f"{name}_sum", names, values, total)


def number(value: float) -> str:
    """Return a number as Prometheus reads it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
