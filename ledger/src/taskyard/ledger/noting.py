"""Takes operators' intents, as the control log tells them, into the audit."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, update
from sqlalchemy.dialects import postgresql, sqlite

from taskyard.ledger.audit import DONE, details_text
from taskyard.ledger.schema import audit
from taskyard.ledger.texts import clean
from taskyard.shared.changes import Change, answer_of, asked_of
from taskyard.shared.control import GENESIS, token_of
from taskyard.shared.intents import ANSWER, CHANGE, STARTED, kind_and_subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from taskyard.shared.control import ControlRecord


async def note_intents(connection: AsyncConnection, records: Iterable[ControlRecord]) -> None:
    """Write down intents, and how they ended; what is there already stays as it is.

    Args:
        connection: to the ledger, in a transaction.
        records: of the control log, in its order.

    """
    rows: list[dict[str, object]] = []
    ends: list[dict[str, object]] = []
    for record in records:
        kind, subject = kind_and_subject(record.key)
        if kind == ANSWER:
            ends += _end(record)
        elif record.op != GENESIS and kind != STARTED and (kind != CHANGE or record.op == "change"):
            rows.append(_row(record, subject))
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert_new: Any = dialect.insert(audit).on_conflict_do_nothing(index_elements=["intent"])
        await connection.execute(insert_new, rows)
    if ends:
        await connection.execute(_END, ends)


_END: Final = (
    update(audit)
    .where(audit.c.intent == bindparam("token"), audit.c.ended_ms.is_(None))
    .values(ended_ms=bindparam("at"), result=bindparam("said"))
)


def _row(record: ControlRecord, subject: str) -> dict[str, object]:
    # `queue:shop:pause` and `job:7:cancel` name the action as well, which `op` says better.
    asked = asked_of(record) if record.op == "change" else None
    token = asked.token if asked is not None else token_of(record)
    identity = f"{record.at}\n{record.by}\n{record.op}\n{record.key}"
    return {
        "intent": token or hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest(),
        "at_ms": record.at,
        "by": clean(record.by),
        "action": clean(record.op if asked is None else _action(asked.change)),
        "subject": clean(f"{record.key.partition(':')[0]}:{subject}" if subject else record.key),
        "details": details_text(
            _details(record) if asked is None else _change_details(asked.change)
        ),
        # What has a token is answered, by the coordinator or by the worker that runs the job.
        "ended_ms": None if token else record.at,
        "result": None if token else DONE,
    }


def _details(record: ControlRecord) -> dict[str, object]:
    body = {name: value for name, value in (record.body or {}).items() if name != "token"}
    return {**body, **({"until": record.expires} if record.expires else {})}


def _action(change: Change | None) -> str:
    if change is None or change.suspend is None:
        return "change"
    return "suspend" if change.suspend else "resume"


def _change_details(change: Change | None) -> dict[str, object]:
    """Return what is to be different; of arguments their names: the values are the job's affair."""
    if change is None:
        return {}
    found: dict[str, object] = {"priority": change.priority, "due": change.due_ms}
    if change.arguments is not None:
        found["arguments"] = sorted(change.arguments)
    return {name: value for name, value in found.items() if value is not None}


def _end(record: ControlRecord) -> list[dict[str, object]]:
    answer = answer_of(record)
    if answer is None:
        return []
    return [{"token": answer.of, "at": record.at, "said": clean(answer.text) or DONE}]
