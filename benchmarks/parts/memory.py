"""What a worker holds at rest."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from benchmarks.arena import Arena
from benchmarks.contestants import OURS, PEERS_ON_RABBITMQ, Contestant, Demand
from benchmarks.figures import Goal
from benchmarks.parts.part import MORE, PEER_NAMES, PSS, Figures, Part, Row, number_of

_SIXTEEN = Demand(slots=16)
#: How long a worker has to come to rest.
_REST_S = 3.0


def memory(contestant: Contestant, arena: Arena, _: float) -> Figures:
    """Let a worker of 16 slots run a few jobs, and look at it at rest."""
    with arena.place(contestant) as place, place.worker(_SIXTEEN) as worker:
        place.publish("many", 200)
        worker.wait(200)
        time.sleep(_REST_S)
        return {PSS: worker.pss_mib}


def memory_delayed(arena: Arena, scale: float) -> Figures:
    """See what a worker holds more while a million jobs are due tomorrow."""
    with arena.place(OURS, BENCH_DELAY_S="86400") as place, place.worker(_SIXTEEN) as worker:
        place.publish("many", 200)
        worker.wait(200)
        time.sleep(_REST_S)
        before = worker.pss_mib
        place.publish("delayed", number_of(1_000_000, scale))
        time.sleep(_REST_S)
        return {MORE: worker.pss_mib - before}


MEMORY: Final = Part(
    "memory",
    "a worker at rest, 16 slots",
    tuple(Row(each.name, each, partial(memory, each)) for each in (OURS, *PEERS_ON_RABBITMQ)),
    (Goal(row=OURS.name, figure=PSS, against=PEER_NAMES, factor=1.0),),
)
MEMORY_DELAYED: Final = Part(
    "memory-delayed",
    "a worker while 1 000 000 jobs are due tomorrow",
    (Row(OURS.name, OURS, memory_delayed),),
    (Goal(row=OURS.name, figure=MORE, factor=5.0),),
)
