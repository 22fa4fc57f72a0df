"""The tables of a namespace: created once, whoever comes first; a newer version is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from taskyard.shared.adapters.sql import queries
from taskyard.shared.errors import ConfigurationError

if TYPE_CHECKING:
    from taskyard.shared.adapters.sql.session import Session

VERSION: Final = 1


def ensure(session: Session, namespace: str) -> None:
    """Create the tables unless they exist; to be run inside a write transaction.

    Raises:
        ConfigurationError: a newer Taskyard made them.

    """
    if session.one(queries.SCHEMA_EXISTS, (f"{namespace}_meta",)) == (0,):
        for statement in queries.SCHEMA.split(";"):
            if statement.strip():
                session.run(statement)
        return
    check(session)


def exists(session: Session, namespace: str) -> bool:
    """Tell whether the tables exist, in a version that this program knows.

    Raises:
        ConfigurationError: a newer Taskyard made them.

    """
    if session.one(queries.SCHEMA_EXISTS, (f"{namespace}_meta",)) == (0,):
        return False
    check(session)
    return True


def check(session: Session) -> None:
    """Refuse tables of another version (ConfigurationError)."""
    (found,) = session.one(queries.SCHEMA_VERSION)
    if found != VERSION:
        msg = (
            f"the database has schema version {found!r} and this Taskyard knows {VERSION}: "
            "upgrade this program, or give it a database of its own (TASKYARD_BROKER_URL)"
        )
        raise ConfigurationError(msg)
