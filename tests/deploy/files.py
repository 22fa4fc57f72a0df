"""Where the deployment's files are, and how tests read them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/taskyard"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
DOCS = ROOT / "docs/deployment.md"
OBSERVABILITY = ROOT / "observability"


def load(path: Path) -> Any:
    """Read one YAML document; anchors and merges are resolved."""
    return yaml.safe_load(path.read_text())


def version() -> str:
    """The version of the workspace."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def interpolated(value: str, given: dict[str, str] | None = None) -> str:
    """Fill in Compose's `${NAME:-default}`; a name without a default must be given."""

    def fill(match: re.Match[str]) -> str:
        name, default = match[1], match[3]
        return (given or {})[name] if default is None else (given or {}).get(name, default)

    return re.sub(r"\$\{([A-Z_]+)(:-([^}]*))?\}", fill, value)


def seconds(duration: str) -> float:
    """Read a duration as Compose and Docker write it: `1m30s`, `50s`."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[u] for number, u in parts)


def check_pinned(image: str) -> None:
    """Assert that an image has a tag that says which release it is."""
    _, colon, tag = image.rpartition(":")
    assert colon, f"{image} has no tag"
    assert tag != "latest", image
    assert re.search(r"\d+\.\d+", tag), f"the tag of {image} says no release"
