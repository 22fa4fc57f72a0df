"""The shop's own database (SQLite). Every write may happen twice and counts once.

Jobs are delivered at least once, so a handler that ran may run again: an order is shipped by a
conditional update, and a mail is marked as sent under a key of its own.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY,
    customer TEXT NOT NULL,
    amount_cents INTEGER NOT NULL,
    country TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'placed',
    authorisation TEXT
);
CREATE TABLE IF NOT EXISTS mails (
    order_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (order_id, kind)
);
"""


@dataclass(frozen=True, slots=True)
class Order:
    """One line of the shop's CSV."""

    id: int
    customer: str
    amount_cents: int
    country: str


class Shop:
    """The shop's orders and the mails it has sent."""

    def __init__(self, path: Path) -> None:
        """Open (and create) the database at `path`."""
        self._path = path
        with self._transaction() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)

    def place(self, orders: Iterable[Order]) -> None:
        """Take in new orders."""
        with self._transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO orders (id, customer, amount_cents, country) VALUES (?, ?, ?, ?)",
                [(o.id, o.customer, o.amount_cents, o.country) for o in orders],
            )

    def order(self, order_id: int) -> Order:
        """Return an order (LookupError when there is none)."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT id, customer, amount_cents, country FROM orders WHERE id = ?", (order_id,)
            ).fetchone()
        if row is None:
            msg = f"the shop has no order {order_id}"
            raise LookupError(msg)
        return Order(*row)

    def decline(self, order_id: int) -> None:
        """Mark an order whose card was declined."""
        self._move(order_id, "declined", None)

    def ship(self, order_id: int, authorisation: str) -> None:
        """Mark an order as shipped, once."""
        self._move(order_id, "shipped", authorisation)

    def mail_sent(self, order_id: int, kind: str) -> bool:
        """Tell whether this mail went out before."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT 1 FROM mails WHERE order_id = ? AND kind = ?", (order_id, kind)
            ).fetchone()
        return found is not None

    def mark_mail(self, order_id: int, kind: str) -> None:
        """Remember that this mail went out."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO mails (order_id, kind) VALUES (?, ?)", (order_id, kind)
            )

    def counts(self) -> dict[str, int]:
        """Return how many orders are in which state."""
        with self._transaction() as db:
            return dict(db.execute("SELECT state, count(*) FROM orders GROUP BY state").fetchall())

    def states(self) -> dict[int, str]:
        """Return each order's state."""
        with self._transaction() as db:
            return dict(db.execute("SELECT id, state FROM orders").fetchall())

    def mails(self) -> set[tuple[int, str]]:
        """Return the mails that went out, by order and kind."""
        with self._transaction() as db:
            return set(db.execute("SELECT order_id, kind FROM mails").fetchall())

    def _move(self, order_id: int, state: str, authorisation: str | None) -> None:
        with self._transaction() as db:
            db.execute(
                "UPDATE orders SET state = ?, authorisation = ? WHERE id = ? AND state = 'placed'",
                (state, authorisation, order_id),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # A connection per transaction: handlers run in threads, and SQLite opens in microseconds.
        with closing(sqlite3.connect(self._path, timeout=10)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            with db:
                yield db
