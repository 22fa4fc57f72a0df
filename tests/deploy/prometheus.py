"""Prometheus' own programs, and what our dashboard asks of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.files import OBSERVABILITY
from taskyard.shared.metrics import PREFIX, TABLE, Definition

DASHBOARDS = sorted((OBSERVABILITY / "grafana/dashboards").glob("*.json"))
METRIC = re.compile(r"\b(?:taskyard|rabbitmq)_[a-z_]+\b")
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES: dict[str, Definition] = {
    PREFIX + definition.name + suffix: definition
    for definition in TABLE
    for suffix in _SUFFIXES[definition.kind]
}


def program(name: str) -> str:
    """Return the path of `promtool` or `prometheus`; skip the test without it, fail it under CI."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        words = f"{name} is missing, so this was not tested; scripts/ensure-prometheus fetches it"
        if os.environ.get("CI"):
            pytest.fail(words, pytrace=False)
        pytest.skip(words)
    return found


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel."""

    panel: str
    expression: str

    def ready(self, *, queue: str = ".*", interval: str = "1m") -> str:
        """Fill in the dashboard's variables."""
        filled = self.expression.replace("$__rate_interval", interval).replace("$queue", queue)
        assert not re.search(r"\$[A-Za-z_{]", filled), filled
        return filled

    def metrics(self) -> set[str]:
        """The names of the series that it reads."""
        return set(METRIC.findall(self.expression))

    def labels(self) -> dict[str, set[str]]:
        """Labels that its selectors name, by series."""
        found: dict[str, set[str]] = {}
        for name, selector in re.findall(r"(\w+)\{([^}]*)\}", self.expression):
            found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        return found

    def groups(self) -> set[str]:
        """Labels that it groups by, less those that it makes itself."""
        named = {
            label.strip()
            for group in re.findall(r"\bby \(([^)]*)\)", self.expression)
            for label in group.split(",")
        }
        made = set(re.findall(r'label_replace\(.*?, "(\w+)"', self.expression))
        return named - made


def panels() -> Iterator[dict[str, Any]]:
    """Every panel of every dashboard, rows left out."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield panel


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]
    ]
