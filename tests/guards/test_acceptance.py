"""Pages that name what proves what: every test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUITE = ROOT / "shared/src/taskyard/shared/conformance"


def named(page: str) -> list[tuple[str, str]]:
    """Return (module, test) of each reference, the test empty where the module is meant."""
    text = (ROOT / "docs" / page).read_text().partition("\n## ")[2]
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        module = ""
        for reference in re.findall(r"`([a-z_]+/[a-z_]+)?(::test_\w+)?`", line):
            module = reference[0] or module
            if module:
                found.append((module, reference[1].removeprefix("::")))
    return found


@pytest.mark.parametrize(("page", "least"), [("acceptance.md", 80), ("failure_modes.md", 15)])
def test_everything_that_is_named_exists(page: str, least: int) -> None:
    """Each module and each test is there, so that no list can rot unseen."""
    pairs = named(page)
    assert len(pairs) > least
    for module, test in pairs:
        path = TESTS / f"{module}.py"
        if not path.exists():
            path = SUITE / f"{module.removeprefix('conformance/')}.py"
        assert path.exists(), module
        tests = set(re.findall(r"def (test_\w+)\(", path.read_text()))
        assert not test or test in tests, f"{module}::{test}"
