"""A process of its own on an SQLite broker, told what to do on its command line.

It prints a line when it has done something, so that tests wait for that and not for a time.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from taskyard.shared.adapters.sql import SqlBroker, Timing
from taskyard.shared.adapters.sql.location import parse
from taskyard.shared.broker import QueueSpec, Settlement, SettleStatus, SetupSpec
from taskyard.shared.conformance.scene import job, jobs
from taskyard.shared.errors import Unavailable
from taskyard.shared.topology import plan

QUEUE = "work"


def say(*words: object) -> None:
    print(*words, flush=True)


async def opened(path: str, **timing: float) -> SqlBroker:
    broker = SqlBroker(parse(f"sqlite:///{path}"), timing=Timing(**timing))
    await broker.open()
    return broker


async def set_up(broker: SqlBroker, *, ledger: bool = False) -> None:
    spec = SetupSpec(queues=(QueueSpec(name=QUEUE),), ledger=ledger)
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))


async def hold(path: str, count: str, lease_s: str) -> None:
    """Take jobs; settle them when a line comes in, and say what became of that."""
    broker = await opened(path, lease_s=float(lease_s))
    consumer = await broker.consume(QUEUE, credit=int(count))
    taken = list(await consumer.take())
    say("took", len(taken))
    await asyncio.to_thread(sys.stdin.readline)
    statuses = await broker.settle([Settlement(delivery=d) for d in taken], deadline_s=5)
    say(*(status.value for status in statuses))


async def work(path: str, out: str) -> None:
    """Run jobs until told to stop, noting each in a file."""
    broker = await opened(path)
    consumer = await broker.consume(QUEUE, credit=20)
    say("ready")
    with Path(out).open("a") as notes:
        while True:
            batch = await consumer.take()
            notes.writelines(f"{delivery.envelope.id}\n" for delivery in batch)
            notes.flush()
            statuses = await broker.settle([Settlement(delivery=d) for d in batch], deadline_s=5)
            assert set(statuses) == {SettleStatus.SETTLED}


async def create(path: str) -> None:
    """Open a database that may not exist yet, set it up and publish a job."""
    await asyncio.to_thread(sys.stdin.readline)
    broker = await opened(path)
    await set_up(broker)
    receipts = await broker.publish([job(QUEUE)], deadline_s=10)
    say(receipts[0].status.value)
    await broker.close()


async def publish_many(path: str, count: str) -> None:
    """Publish for ever, in batches of `count`, saying how many are confirmed."""
    broker = await opened(path)
    total = 0
    while True:
        receipts = await broker.publish(jobs(QUEUE, int(count)), deadline_s=10)
        total += sum(receipt.status.value == "confirmed" for receipt in receipts)
        say(total)


async def _stats(broker: SqlBroker) -> None:
    await broker.stats([QUEUE])


async def fork(path: str) -> None:
    """Fork with a job in hand: the child may not use the handle, and does not keep it alive."""
    broker = await opened(path)
    consumer = await broker.consume(QUEUE, credit=1)
    await consumer.take()
    if os.fork() == 0:
        try:
            asyncio.run(_stats(broker))
        except Unavailable as error:
            say("refused", "fork" in str(error))
        sys.stdin.readline()
        os._exit(0)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
