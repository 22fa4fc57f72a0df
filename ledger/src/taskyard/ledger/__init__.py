"""The ledger: the history and index of jobs, in SQL.

The coordinator reads the lifecycle feed and writes what it says into the database; commands and
programs read that. Workers and producers know nothing of it and need the broker only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskyard.ledger.client import AsyncLedger, NotDone
    from taskyard.ledger.database import LedgerUnavailable
    from taskyard.ledger.facade import Ledger
    from taskyard.ledger.reading import JobRow
    from taskyard.ledger.status import Progress, Status

__all__ = [
    "AsyncLedger",
    "JobRow",
    "Ledger",
    "LedgerUnavailable",
    "NotDone",
    "Progress",
    "Status",
]

#: Loaded when asked for: they take SQLAlchemy, and each command of the ledger loads this package.
_ROOMS: Final = {
    "AsyncLedger": "client",
    "JobRow": "reading",
    "Ledger": "facade",
    "LedgerUnavailable": "database",
    "NotDone": "client",
    "Progress": "status",
    "Status": "status",
}


def __getattr__(name: str) -> object:
    """Load what is asked for by name."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
