"""Pairs of broker and database that show as much as each broker with each database."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest

#: Set, tests marked `pairs` run on each broker with each database.
ALL_PAIRS_VARIABLE = "TASKYARD_TEST_ALL_PAIRS"


def thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests marked `pairs` keep the newest broker with each database, the others with one each."""
    if os.environ.get(ALL_PAIRS_VARIABLE):
        return
    runs: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("pairs") and _pair(item):
            runs[item.nodeid.partition("[")[0]].append(item)
    out = {item for mates in runs.values() for item in _left_out(mates)}
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]


def _left_out(mates: list[pytest.Item]) -> list[pytest.Item]:
    """Return the runs of one test that are left out."""
    pairs = [_pair(item) for item in mates]
    # Not in the order of the items, which pytest groups by their servers.
    brokers = sorted({pair[0] for pair in pairs}, key=lambda each: (each != "sqlite", each))
    databases = sorted({pair[1] for pair in pairs}, reverse=True)
    return [
        item
        for item, (broker, database) in zip(mates, pairs, strict=True)
        if broker != brokers[-1] and (brokers.index(broker) + databases.index(database)) % 2
    ]


def _pair(item: pytest.Item) -> tuple[str, ...]:
    """Return the broker and the database that a run is on; nothing for one that has not both."""
    spec = getattr(item, "callspec", None)
    known = {} if spec is None else spec.params
    both = {"broker_target", "ledger_url"} <= known.keys()
    return (known["broker_target"].id, known["ledger_url"]) if both else ()
