"""The queues of an application, found in its modules."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec

from taskyard.shared.aside import Aside
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.task import Queue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType


def load_queues(modules: Sequence[str]) -> dict[str, Queue[Any]]:
    """Import modules and return every `Queue` that is an attribute of one, by name.

    Args:
        modules: import paths such as `shop.tasks`; the current folder is importable.

    Raises:
        ConfigurationError: a module cannot be imported, declares no queue, or two queues share
            a name.

    """
    found: dict[str, Queue[Any]] = {}
    for name in modules:
        module = _load(name)
        queues = queues_of(module)
        if not queues:
            msg = f"module {name} declares no Queue (a module attribute made by Queue(…))"
            raise ConfigurationError(msg)
        for queue in queues:
            if found.setdefault(queue.name, queue) is not queue:
                msg = (
                    f"two queues are named {queue.name!r}, one of them in module {name}; rename one"
                )
                raise ConfigurationError(msg)
    return found


def select_queues(queues: dict[str, Queue[Any]], names: str) -> list[Queue[Any]]:
    """Return the queues meant by a comma list, or by `all`.

    Raises:
        ConfigurationError: a name is not among them; the text lists those that are.

    """
    if names.strip() == "all":
        return list(queues.values())
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in queues]
    if unknown or not wanted:
        msg = f"unknown queue {', '.join(unknown) or names!r}; declared are {', '.join(sorted(queues))}"
        raise ConfigurationError(msg)
    return [queues[name] for name in dict.fromkeys(wanted)]


def name_queues(modules: Sequence[str], names: str) -> list[str]:
    """Return the names of the queues meant by a comma list, or by `all`, without keeping them.

    Modules are imported in a child; here only if that fails, for the error.

    Raises:
        ConfigurationError: see `load_queues` and `select_queues`.

    """

    def found() -> list[str]:
        return [queue.name for queue in select_queues(load_queues(modules), names)]

    raw = Aside(lambda: msgspec.json.encode(found())).wait()
    return msgspec.json.decode(raw, type=list[str]) if raw else found()


def queues_of(module: ModuleType) -> list[Queue[Any]]:
    """Return every `Queue` that is an attribute of a module."""
    return [value for value in vars(module).values() if _is_queue(value)]


def _is_queue(value: object) -> TypeGuard[Queue[Any]]:
    return isinstance(value, Queue)


def _load(name: str) -> ModuleType:
    if not all(name.split(".")):
        msg = f"{name!r} is no import path: one such as shop.tasks is wanted"
        raise ConfigurationError(msg)
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        msg = f"module {name!r} cannot be imported: {error} (an import path such as shop.tasks is wanted)"
        raise ConfigurationError(msg) from error
