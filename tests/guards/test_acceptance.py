"""docs/acceptance.md names what proves what: everything that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
SUITE = ROOT / "shared/src/taskyard/shared/conformance"


def named() -> list[tuple[str, str]]:
    """Return (module, test) of each reference, the test empty where the module is meant."""
    text = (ROOT / "docs/acceptance.md").read_text().partition("## Behaviour")[2]
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        module = ""
        for reference in re.findall(r"`([a-z_]+/[a-z_]+)?(::test_\w+)?`", line):
            module = reference[0] or module
            if module:
                found.append((module, reference[1].removeprefix("::")))
    return found


def test_everything_that_is_named_exists() -> None:
    """Each module and each test is there, so that the list cannot rot unseen."""
    pairs = named()
    assert len(pairs) > 80
    for module, test in pairs:
        path = TESTS / f"{module}.py"
        if not path.exists():
            path = SUITE / f"{module.removeprefix('conformance/')}.py"
        assert path.exists(), module
        tests = {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not test or test in tests, f"{module}::{test}"
