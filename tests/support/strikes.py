"""What an attack can do to an installation, each of it one `Strike` of a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from support.accounting import BROKER_KILLED
from support.broker import BrokerUnderTest
from support.cluster import Cluster
from support.crew import Crew
from support.process import Program
from support.proxy import Proxy
from support.rig import QUEUE
from support.schedule import Strike
from taskyard.shared.adapters.amqp.names import Names

WORKER_KILLED = "worker killed"
WORKER_FROZEN = "worker frozen"
SENDER_KILLED = "sender killed"
SENDER_FROZEN = "sender frozen"
CONNECTIONS_CUT = "connections cut"
CONNECTIONS_CLOSED = "connections closed by the broker"
HALF_OPEN = "connections half open"
STALLED = "network stalled"
LEADER_KILLED = "leader killed"
BROKER_RESTARTED = "broker restarted"
MEMORY_ALARM = "memory alarm"

#: The heartbeat of attacks that make the network silent: short, so that it is soon found out.
HEARTBEAT_S = 4

#: How long after its end something may still have to be found out by those who suffered it: until
#: then they work on what the broker has given to others. A silent connection is found dead after
#: one and a half heartbeats.
AFTERMATH_S = {
    WORKER_FROZEN: 5.0,
    STALLED: 5.0,
    HALF_OPEN: 2.0 * HEARTBEAT_S,
}

#: Nobody suffered it: there was no such process just then, or this broker knows no such fault.
NOBODY = -1
#: Every connection suffered it.
EVERYBODY = 0


class Arms:
    """Does what a strike says. Those that need the same node or network wait for each other.

    Attributes:
        workers: whom strikes on workers hit.
        senders: whom strikes on senders hit.

    """

    def __init__(
        self, target: BrokerUnderTest, proxy: Proxy | None, workers: Crew, senders: Crew
    ) -> None:
        self.workers = workers
        self.senders = senders
        self._target = target
        self._cluster = target.cluster
        self._proxy = proxy
        self._node, self._network = asyncio.Lock(), asyncio.Lock()
        self._on_processes = {
            WORKER_KILLED: (True, _kill),
            WORKER_FROZEN: (True, _freeze),
            SENDER_KILLED: (False, _kill),
            SENDER_FROZEN: (False, _freeze),
        }
        self._on_node: dict[str, Callable[[Strike], Awaitable[object]]] = {
            BROKER_KILLED: lambda _: target.kill_broker(),
            BROKER_RESTARTED: lambda _: target.restart_broker(),
            CONNECTIONS_CLOSED: lambda _: asyncio.to_thread(self._close_connections),
            MEMORY_ALARM: self._alarm,
        }

    async def use(self, strike: Strike) -> int:
        """Return who suffered: a process, `EVERYBODY` or `NOBODY`."""
        if strike.kind in self._on_processes:
            of_workers, act = self._on_processes[strike.kind]
            victim = (self.workers if of_workers else self.senders).one(strike.victim)
            if victim is None:
                return NOBODY
            await act(victim, strike.for_s)
            return victim.pid
        if self._cluster is not None:
            return await self._use_on(self._cluster, strike)
        if self._proxy is None:
            return NOBODY
        if strike.kind in self._on_node:
            async with self._node:
                await self._on_node[strike.kind](strike)
        else:
            async with self._network:
                await _disturb(self._proxy, strike)
        return EVERYBODY

    async def _use_on(self, cluster: Cluster, strike: Strike) -> int:
        url = self._target.url
        if strike.kind == LEADER_KILLED:
            queue = Names().work_queue(QUEUE)
            async with self._node:
                await asyncio.to_thread(cluster.kill_leader, url, queue, down_s=strike.for_s)
        elif strike.kind == CONNECTIONS_CLOSED:
            await asyncio.to_thread(cluster.close_connections, url)
        else:
            return NOBODY
        return EVERYBODY

    def _close_connections(self) -> None:
        self._target.own_node().close_connections(self._target.url)

    async def _alarm(self, strike: Strike) -> None:
        node = self._target.own_node()
        await asyncio.to_thread(node.set_memory_alarm, on=True)
        await asyncio.sleep(strike.for_s)
        await asyncio.to_thread(node.set_memory_alarm, on=False)


async def _kill(victim: Program, _: float) -> None:
    victim.kill()


async def _freeze(victim: Program, for_s: float) -> None:
    victim.freeze()
    await asyncio.sleep(for_s)
    if victim.is_running:
        victim.thaw()


async def _disturb(proxy: Proxy, strike: Strike) -> None:
    if strike.kind == CONNECTIONS_CUT:
        proxy.cut()
    elif strike.kind == HALF_OPEN:
        proxy.half_open()
    elif strike.kind == STALLED:
        proxy.stall()
        await asyncio.sleep(strike.for_s)
        proxy.resume()
    else:
        raise ValueError(f"no such strike: {strike.kind}")
