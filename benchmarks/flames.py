"""Flame graphs of what the benchmark's largest figures are made of, drawn by py-spy.

`python -m benchmarks.flames FOLDER` writes one SVG for a worker that runs jobs, one for `send_many`
and one for `send` from 16 threads. py-spy (`pip install py-spy`) has to be on the path.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.arena import Arena, Stalled, opened
from benchmarks.contestants import OURS, OWN, UNRECORDED, Demand

_SECONDS = 5
_PER_SECOND = 200
#: Sent in less time than it watches, so that the sender ends by itself.
_SENT = {"many": 180_000, "threads": 35_000}
#: Run in more.
_RUN = 300_000


def main() -> int:
    """Draw all of them."""
    parser = argparse.ArgumentParser(prog="benchmarks.flames", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--root", help="the RabbitMQ installation; default: the newest known")
    options = parser.parse_args()
    spy = shutil.which("py-spy")
    if spy is None:
        parser.error("py-spy is not on the path: pip install py-spy")
    options.folder.mkdir(parents=True, exist_ok=True)
    with opened(options.root) as arena:
        with _watched(spy, options.folder / "consume.svg", "a worker, recording on") as watch:
            _consume(arena, watch)
        for mode, title in (("many", "send_many"), ("threads", "send from 16 threads")):
            with _watched(spy, options.folder / f"send-{mode}.svg", title) as watch:
                watched = replace(UNRECORDED, publisher=(*watch, *UNRECORDED.publisher))
                with arena.place(watched) as place:
                    place.publish(mode, _SENT[mode])
    return 0


@contextmanager
def _watched(spy: str, target: Path, title: str) -> Iterator[tuple[str, ...]]:
    """Give the front of a command line that draws what follows it, and name the drawing after."""
    options = ("--duration", str(_SECONDS), "--rate", str(_PER_SECOND), "--threads")
    yield (spy, "record", *options, "--output", str(target), "--")
    drawn = target.read_text()
    heading = rf"\g<1>{title}, {_SECONDS} s"  # in place of the command, which holds paths
    target.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', heading, drawn, count=1))
    print(f"{title}: {target}", file=sys.stderr)


def _consume(arena: Arena, watch: tuple[str, ...]) -> None:
    with arena.place(OURS) as place:
        place.publish("many", _RUN)
        place.contestant = replace(
            OURS, worker=lambda demand: (*watch, str(OWN / "python"), *OURS.worker(demand))
        )
        # py-spy ends the worker when its time is up, so that one never runs all.
        with place.worker(Demand(prefetch=1000)) as worker, suppress(Stalled):
            worker.wait(_RUN)


if __name__ == "__main__":
    sys.exit(main())
