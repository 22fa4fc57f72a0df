"""The rules for names that users choose: queues, tasks, jobs, namespaces."""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import category

from taskyard.shared.errors import ConfigurationError

_QUEUE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
#: Categories of Unicode: control characters, and what has no UTF-8.
_UNSEEN = frozenset({"Cc", "Cs"})


@lru_cache(maxsize=4096)
def check_queue_name(name: str) -> str:
    """Return a valid queue name unchanged.

    Raises:
        ConfigurationError: the name is not `[a-z0-9][a-z0-9_-]*` of at most 64 characters
            (a dot would collide with routing keys).

    """
    if not _QUEUE.fullmatch(name):
        msg = (
            f"queue name {name!r} is not valid: use 1 to 64 of a-z, 0-9, '_' and '-', "
            "starting with a letter or digit"
        )
        raise ConfigurationError(msg)
    return name


def check_task_name(name: str) -> str:
    """Return a valid short task name unchanged (ConfigurationError otherwise)."""
    if not _TASK.fullmatch(name):
        msg = (
            f"task name {name!r} is not valid: use 1 to 128 letters, digits, '_', '.', ':' and '-', "
            "starting with a letter, a digit or '_'"
        )
        raise ConfigurationError(msg)
    return name


def check_namespace(name: str) -> str:
    """Return a valid namespace unchanged (ConfigurationError otherwise)."""
    if not _NAMESPACE.fullmatch(name):
        msg = (
            f"TASKYARD_NAMESPACE {name!r} is not valid: use 1 to 32 of a-z, 0-9, '_' and '-', "
            "starting with a letter or digit"
        )
        raise ConfigurationError(msg)
    return name


def check_job_name(name: str) -> str:
    """Return a valid name of a single job unchanged.

    Raises:
        ConfigurationError: it has less than 2 or more than 32 characters, or holds `<`, `>`, a
            control character or half of a surrogate pair.

    """
    if not 2 <= len(name) <= 32 or any(c in "<>" or category(c) in _UNSEEN for c in name):
        msg = (
            f"job name {name!r} is not valid: use 2 to 32 characters, without '<', '>' and control "
            "characters"
        )
        raise ConfigurationError(msg)
    return name


@lru_cache(maxsize=4096)
def full_task_name(queue: str, task: str) -> str:
    """Return `<queue>.<task>`; a name that already starts with its queue stays as it is."""
    return task if task.startswith(f"{queue}.") else f"{queue}.{task}"
