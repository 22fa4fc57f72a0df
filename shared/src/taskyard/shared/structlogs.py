"""structlog, where an application uses it: its lines go where ours go.

It is 3 to 6 MiB, and we do not need it ourselves: so it is configured in the moment in which the
application imports it. Later is too late: what a module binds at its top (`get_logger().bind(…)`)
keeps for ever what was configured then, which prints to standard output.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from taskyard.shared.log_lines import Event

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NAME = "structlog"


def loaded_structlog() -> ModuleType | None:
    """Return structlog if it has been imported, and not if another thread is about to."""
    found = sys.modules.get(_NAME)
    return found if hasattr(found, "is_configured") else None


def adopt_structlog() -> None:
    """Have what is logged with structlog go to the standard library's logging, as our lines do.

    Now, or when it is imported. One that was configured is left as it is.
    """
    structlog = loaded_structlog()
    if structlog is None:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    elif not structlog.is_configured():
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, _as_event],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )


class _Finder:
    """Among Python's finders of modules until structlog is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Have the others find structlog, and adopt it as soon as it is there."""
        del path, target
        if name != _NAME:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(cast("Any", self))
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)  # it is not installed, or not yet
            return None
        execute = spec.loader.exec_module

        def execute_and_adopt(module: ModuleType) -> None:
            execute(module)
            adopt_structlog()

        cast("Any", spec.loader).exec_module = execute_and_adopt
        return spec


def _as_event(
    logger: object, method: str, fields: MutableMapping[str, Any]
) -> tuple[tuple[Event], dict[str, Any]]:
    """Hand a line of structlog to the standard library's logging; the last of its processors."""
    del logger, method
    how = {name: fields.pop(name, False) for name in ("exc_info", "stack_info")}
    return (Event(str(fields.pop("event", "")), fields),), how
