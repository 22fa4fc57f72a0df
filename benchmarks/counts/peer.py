"""The broker's side of AMQP in this very process: what it does, it does the same way every time.

It speaks over real sockets, so that whatever the adapter is made of is run, and it answers in fixed
portions: publishes are confirmed together, deliveries come `PORTION` at a time once the last portion
is acknowledged. It keeps the jobs that were published, and hands over as many as it is told to.

Allocations are counted with it in the process, so it does little while jobs are on their way: what
is published is taken apart later, and what is delivered is made ready before.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final, Self

from benchmarks.counts.session import Portion, Session

#: Deliveries in one piece, acknowledged before the next: a busy worker's batches look like this.
PORTION: Final = 50


class Peer:
    """`async with Peer(feed=…) as peer:` listens at `peer.url`.

    Attributes:
        url: to connect to.
        stored: jobs that were published and not made ready, as their frames after the method's.

    """

    def __init__(self, *, feed: bool, queue: str, control: bytes) -> None:
        """Prepare it.

        Args:
            feed: whether the lifecycle feed is set up, so that outcomes are recorded.
            queue: the work queue of `namespace.q.name`, which is the only one with jobs.
            control: body of the one message in the control log.

        """
        self.url = ""
        self.stored: deque[list[bytes]] = deque()
        self.feed = feed
        self.queue = queue
        self.control = control
        self._consumer: asyncio.Future[tuple[Session, int, str]] = (
            asyncio.get_running_loop().create_future()
        )
        self._portions: deque[Portion] = deque()
        self._settled = asyncio.Event()
        self._listener = socket.socket()
        self._sessions: list[Session] = []
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)
        self.url = f"amqp://peer:peer@127.0.0.1:{self._listener.getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop everybody."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for session in self._sessions:
            session.end()

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sessions.append(Session(self, accepted, self._loop))

    async def prepare(self, number: int) -> None:
        """Make so many deliveries ready, once there is who takes them."""
        session, channel, tag = await self._consumer
        for each in self._sessions:
            each.take_apart()
        if number > len(self.stored):
            msg = f"{number} jobs are to be delivered, and {len(self.stored)} are there"
            raise ValueError(msg)
        while number:
            jobs = [self.stored.popleft() for _ in range(min(PORTION, number))]
            number -= len(jobs)
            self._portions.append(session.portion(channel, tag, jobs))

    async def hand_over(self, _: int) -> None:
        """Deliver what is ready, and return once each is acknowledged."""
        self._settled.clear()
        self.go_on()
        await self._settled.wait()

    def consumed(self, session: Session, channel: int, tag: str) -> None:
        """Take note of who takes jobs."""
        if not self._consumer.done():
            self._consumer.set_result((session, channel, tag))

    def go_on(self) -> None:
        """Deliver the next portion, or say that all is settled."""
        if not self._consumer.done():
            return
        session, _, _ = self._consumer.result()
        if session.unsettled:
            return
        if self._portions:
            session.deliver(self._portions.popleft())
        else:
            self._settled.set()
