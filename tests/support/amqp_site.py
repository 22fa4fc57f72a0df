"""A RabbitMQ virtual host with Taskyard on it, for tests of the adapter's management side.

Run as a program it is a process of its own that holds something until it is killed:
`python -m support.amqp_site lock URL NAME`. It prints a line when it has done it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from support.process import Program
from support.rabbitmq import BlockingNode
from taskyard.shared.adapters.amqp import connect
from taskyard.shared.adapters.amqp.broker import AmqpBroker
from taskyard.shared.adapters.amqp.channel import Channel
from taskyard.shared.adapters.amqp.lock import AmqpLease
from taskyard.shared.broker import (
    Broker,
    BrokerOptions,
    Held,
    Owner,
    PublishStatus,
    QueueSpec,
    Selection,
    Settlement,
    SettleStatus,
    SetupSpec,
)
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.topology import Action, plan

#: A management API that answers nobody.
NOWHERE = "http://127.0.0.1:9"
DEADLINE_S = 20.0


class Site:
    """`async with Site(amqp_url, management_url) as site:`; closes the handles that it opened."""

    def __init__(self, url: str, management_url: str | None = None, *, kind: str = "auto") -> None:
        """Name the virtual host, its management API (None: out of reach), and the queues' type."""
        self.url = url
        self.management_url = management_url or NOWHERE
        self.kind = kind
        self._handles: list[AmqpBroker] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for handle in self._handles:
            await handle.close()

    async def open(self, url: str | None = None, **options: Any) -> AmqpBroker:
        """Return an open handle; `url` may lead through a proxy."""
        chosen = {"management_url": self.management_url, **options}
        handle = connect(url or self.url, BrokerOptions(**chosen))
        await handle.open()
        self._handles.append(handle)
        return handle

    def spec(self, *queues: str, ledger: bool = False) -> SetupSpec:
        """Return what is asked for; a queue may carry its type as `NAME:TYPE`."""
        specs = []
        for text in queues:
            name, _, kind = text.partition(":")
            specs.append(QueueSpec(name=name, type=kind or self.kind))
        return SetupSpec(queues=tuple(specs), ledger=ledger)

    async def plan(
        self, broker: AmqpBroker, *queues: str, ledger: bool = False, retired: Any = ()
    ) -> list[Action]:
        """Return what lies between the broker and what is asked for."""
        spec = self.spec(*queues, ledger=ledger)
        observed = await broker.observe(spec)
        return plan(broker.desired(spec, observed), observed, retired=retired)

    async def set_up(self, *queues: str, ledger: bool = False) -> AmqpBroker:
        """Set queues up and return a handle that was opened afterwards."""
        first = await self.open()
        await first.apply(await self.plan(first, *queues, ledger=ledger))
        return await self.open()


def jobs(queue: str, count: int, **fields: Any) -> list[Envelope]:
    """Return new jobs whose bodies number them."""
    return [
        Envelope(id=mint_id(), queue=queue, task=f"{queue}.t", body=b'{"n":%d}' % n, **fields)
        for n in range(count)
    ]


async def publish(broker: Broker, envelopes: Sequence[Envelope]) -> None:
    """Publish jobs that must be confirmed."""
    receipts = await broker.publish(envelopes, deadline_s=DEADLINE_S)
    assert {receipt.status for receipt in receipts} == {PublishStatus.CONFIRMED}


async def park(broker: Broker, queue: str, count: int, *, reason: str = "held") -> list[str]:
    """Park new jobs of all priorities and return their ids, the longest parked first."""
    sent = [
        msgspec.structs.replace(envelope, priority=(n * 7 + 3) % 10)
        for n, envelope in enumerate(jobs(queue, count))
    ]
    await publish(broker, sent)
    consumer = await broker.consume(queue, credit=min(count, 2000))
    order: list[str] = []
    while len(order) < count:
        batch = await consumer.take()
        parking = Parking(reason=reason, at_ms=broker.now_ms())
        statuses = await broker.settle(
            [
                Settlement(
                    delivery=delivery,
                    park=msgspec.structs.replace(delivery.envelope, parking=parking),
                )
                for delivery in batch
            ],
            deadline_s=DEADLINE_S,
        )
        assert set(statuses) == {SettleStatus.SETTLED}
        order += [delivery.envelope.id for delivery in batch]
    await consumer.stop()
    return order


async def browse(broker: Broker, queue: str) -> list[str]:
    """Return the ids in a parking lot, in its order."""
    return [found.envelope.id async for found in broker.parked(queue)]


async def on_disk(node: BlockingNode) -> None:
    """Return when what was declared survives a `kill -9` of the node.

    RabbitMQ writes some of what it knows of new queues down a second or two after it has answered;
    one that dies in between forgets streams and quorum queues with all that they hold.
    """
    write = "catch mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()]."
    await asyncio.to_thread(node.ctl, "eval", write)


def start(log: Path, *arguments: str) -> Program:
    """Start this module as a process of its own."""
    argv = [sys.executable, "-m", "support.amqp_site", *arguments]
    return Program(argv, log=log, env={"PYTHONPATH": str(Path(__file__).parents[1])})


# ---------------------------------------------------------------- as a program


def _say(*words: object) -> None:
    print(*words, flush=True)


async def _lock(url: str, name: str) -> None:
    broker = connect(url, BrokerOptions(management_url=NOWHERE))
    await broker.open()
    owner = Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=broker.now_ms())
    lease = await broker.lock(name, owner)
    if isinstance(lease, Held):
        _say("held")
        return
    _say("locked")
    await lease.wait_lost()
    _say("lost")


async def _die_locking(url: str, name: str, step: str) -> None:
    """Die at one step of taking a lock: `linked`, `asked`, `declared` or `consuming`."""

    def dies(method: Callable[..., Any], *, midway: bool = False) -> Callable[..., Any]:
        async def dying(*args: Any, **options: Any) -> None:
            call = asyncio.ensure_future(method(*args, **options))
            # In the middle of it the request is on its way, and nobody has read the answer.
            await (asyncio.sleep(0) if midway else call)
            _say("dying")
            os.kill(os.getpid(), signal.SIGKILL)

        return dying

    broker = connect(url, BrokerOptions(management_url=NOWHERE))
    await broker.open()
    match step:
        case "linked":
            AmqpLease.take = lambda *_: dies(asyncio.sleep)(0)  # type: ignore[method-assign]
        case "asked" | "declared":
            real = Channel.call

            def call(channel: Channel, method: str, **fields: Any) -> Any:
                if fields.get("exclusive"):
                    return dies(real, midway=step == "asked")(channel, method, **fields)
                return real(channel, method, **fields)

            Channel.call = call  # type: ignore[assignment,method-assign]
        case _:
            Channel.consume = dies(Channel.consume)  # type: ignore[method-assign]
    await broker.lock(name, Owner(host=socket.gethostname(), pid=os.getpid(), since_ms=1))


async def _browse(url: str, queue: str, count: str) -> None:
    broker = connect(url, BrokerOptions(management_url=NOWHERE))
    await broker.open()
    seen = 0
    async for _ in broker.parked(queue):
        seen += 1
        if seen == int(count):
            _say("seen")
            await asyncio.Event().wait()


async def _release(url: str, queue: str, count: str) -> None:
    """Release so many jobs one by one, and hold the rest."""
    broker = connect(url, BrokerOptions(management_url=NOWHERE))
    await broker.open()
    done = 0
    async for batch in broker.take_parked(queue, Selection()):
        for delivery in batch:
            copy = msgspec.structs.replace(
                delivery.envelope, attempt=delivery.envelope.attempt + 1, parking=None
            )
            settlement = Settlement(delivery=delivery, copies=(copy,))
            assert await broker.settle([settlement], deadline_s=DEADLINE_S) == [
                SettleStatus.SETTLED
            ]
            done += 1
            if done == int(count):
                _say("released")
                await asyncio.Event().wait()


if __name__ == "__main__":
    _ACTS: dict[str, Callable[..., Coroutine[None, None, None]]] = {
        "lock": _lock,
        "die-locking": _die_locking,
        "browse": _browse,
        "release": _release,
    }
    asyncio.run(_ACTS[sys.argv[1]](*sys.argv[2:]))
