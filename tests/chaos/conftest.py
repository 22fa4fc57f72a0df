"""The attacks: each in a short form, which every test run makes, and in full, by `make chaos`."""

from __future__ import annotations

import os
import secrets

import pytest

from support.attack import Size

#: A seed that an earlier run printed, to attack in the same way again.
SEED_VARIABLE = "TASKYARD_TEST_SEED"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make an attack that takes `size` part of every run in short, and of `-m chaos` in full."""
    if "size" not in metafunc.fixturenames:
        return
    sizes = [pytest.param(Size(full=False), id="short", marks=pytest.mark.system)]
    if "chaos" in metafunc.config.getoption("markexpr"):
        marks = [pytest.mark.chaos, pytest.mark.timeout(1800)]
        sizes.append(pytest.param(Size(full=True), id="full", marks=marks))
    metafunc.parametrize("size", sizes)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the short form out where a neighbour's shows as much."""
    out = [item for item in items if item.get_closest_marker("in_full") and not _is_full(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in set(out)]


def _is_full(item: pytest.Item) -> bool:
    spec = getattr(item, "callspec", None)
    return spec is not None and spec.params["size"].full


@pytest.fixture
def seed() -> int:
    """What every choice of an attack is drawn from; printed, so that it can be made again."""
    chosen = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(32))
    print(f"{SEED_VARIABLE}={chosen}")
    return chosen
