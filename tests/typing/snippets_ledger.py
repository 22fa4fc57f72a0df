"""Asking the ledger, as users write it; both type checkers read this file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from taskyard.ledger import AsyncLedger, JobRow, Ledger, Status
from taskyard.shared import Queue

orders = Queue("snippets-ledger")


@orders.task
async def price(order_id: int) -> float:
    return order_id / 2


def use_the_ledger() -> None:
    with Ledger() as ledger:
        status = ledger.status("id")
        assert_type(status, Status)
        assert_type(status.numerator, float | None)
        assert_type(status.is_over, bool)
        assert_type(ledger.result("id", timeout=30), Any)
        assert_type(ledger.result("id", task=price, timeout="5s"), float)
        for job in ledger.jobs(state="failed", arg={"n": 7}, ended_before="1h"):
            assert_type(job, JobRow)
            ledger.delete(job.id)
        assert_type(ledger.count(queue=["a", "b"], created_after=datetime.now(UTC)).number, int)
        ledger.count(colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def use_the_asynchronous_one() -> None:
    async with AsyncLedger("sqlite:///ledger.db") as ledger:
        assert_type(await ledger.status("id"), Status)
        assert_type(await ledger.result("id", task=price), float)
        assert_type([job async for job in ledger.jobs(active=True)], list[JobRow])
