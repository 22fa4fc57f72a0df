"""An attack on a whole installation: numbered jobs, a crew of workers, a sender, and strikes.

async with Siege(broker, taskyard, folder, workers=4) as siege:
    siege.send(200_000, per_second=650)
    await siege.strike(schedule(seed, {WORKER_KILLED: 100}, lasting_s=300))
    found = await siege.account()
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Self

from support import numbered
from support.accounting import Account, Books, Fault, account
from support.broker import BrokerUnderTest
from support.crew import Crew
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.process import Program
from support.proxy import Proxy
from support.rig import Rig
from support.schedule import Strike
from support.strikes import AFTERMATH_S, NOBODY, Arms

TESTS = Path(__file__).resolve().parents[1]


class Siege:
    """See the module's docstring.

    Attributes:
        rig: the installation, with a broker handle of its own that is not attacked.
        faults: what was done so far.
        books: what was noted until the account.

    """

    def __init__(
        self,
        target: BrokerUnderTest,
        start: StartTaskyard,
        folder: Path,
        *,
        workers: int,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.target = target
        self.rig = Rig(target, start, folder)
        self.faults: list[Fault] = []
        self.books = Books()
        self.notes = folder / "notes"
        self.notes.mkdir()
        self._start = start
        self._options = tuple(options)
        self._more_env = dict(env or {})
        # A cluster's clients choose among its nodes, so there is nothing to put in between.
        alone = target.kind == "rabbitmq" and target.cluster is None
        self._proxy = Proxy.to(target.url) if alone else None
        self.workers = Crew(workers, self._start_worker)
        self.senders = Crew(0, self._start_sender)
        self._arms = Arms(target, self._proxy, self.workers, self.senders)
        self._total = 0
        self._per_second = 0.0
        self._logs = count(1)

    async def __aenter__(self) -> Self:
        if self._proxy is not None:
            await self._proxy.start()
        await self.rig.__aenter__()
        await self.workers.__aenter__()
        await eventually(lambda: len(self.workers.members) == self.workers.size)
        for worker in self.workers.members.values():
            await self.rig.ready(worker)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.senders.__aexit__(None, None, None)
        await self.workers.__aexit__(None, None, None)
        await self.rig.__aexit__(None, None, None)
        if self._proxy is not None:
            await self._proxy.close()

    # what runs

    async def send(self, total: int, *, per_second: float) -> None:
        """Start to send so many numbered jobs, at a pace; a sender that dies is started again."""
        self._total, self._per_second = total, per_second
        self.senders = self._arms.senders = Crew(1, self._start_sender)
        await self.senders.__aenter__()
        await eventually(lambda: any(self.notes.glob("sent-*")))

    @property
    def sending(self) -> bool:
        """Whether jobs are still being sent."""
        return self.senders.one(0) is not None

    def enough(self) -> None:
        """Send no more."""
        self._total = 0
        if (sender := self.senders.one(0)) is not None:
            sender.kill()

    async def strike(self, strikes: Sequence[Strike]) -> None:
        """Do what the schedule says when it says so, and return when the last is over.

        One that lasts delays only those that need the same node or network.
        """
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for strike in strikes:
                await asyncio.sleep(max(0.0, began + strike.at_s - time.monotonic()))
                group.create_task(self._strike(strike))

    async def account(self, *, within: float = 120) -> Account:
        """Wait until all is sent and done, and say what became of each number."""
        await asyncio.wait_for(self.senders.done(), within)
        until = time.monotonic() + within
        while True:
            # A broker says that a queue is empty while its last jobs run.
            await self.rig.emptied(within=max(1.0, until - time.monotonic()))
            found = await self._account()
            if not found.missing or time.monotonic() > until:
                return found
            await asyncio.sleep(1.0)

    async def _account(self) -> Account:
        parked = [job async for job in self.rig.broker.parked("default")]
        numbers = {json.loads(job.envelope.body)["number"] for job in parked}
        self.books = Books.of(self.notes)
        return account(self.books, self.faults, numbers)

    async def roll(self) -> None:
        """Stop one worker after another in good order, each when the one before is back."""
        for place in sorted(self.workers.members):
            old = self.workers.members[place]
            old.terminate()
            await eventually(partial(self._replaced, place, old), within=60)
            await self.rig.ready(self.workers.members[place])

    def _replaced(self, place: int, old: Program) -> bool:
        return self.workers.members[place] is not old

    async def _strike(self, strike: Strike) -> None:
        since = time.time()
        victim = await self._arms.use(strike)
        if victim != NOBODY:
            until = time.time() + AFTERMATH_S.get(strike.kind, 0.0)
            fault = Fault(kind=strike.kind, since=since, until=until, pid=victim)
            self.faults.append(fault)

    # processes

    @property
    def _env(self) -> dict[str, str]:
        env = {numbered.FOLDER: str(self.notes), "PYTHONPATH": str(TESTS), **self._more_env}
        if self._proxy is not None:
            env["TASKYARD_BROKER_URL"] = self._proxy.url(self.target.url)
        return self.rig.env(**env)

    def _start_worker(self, place: int) -> Program:
        state = self.rig.folder / f"state-{place}"
        env = {**self._env, "TASKYARD_STATE_DIR": str(state)}
        return self._start("worker", "support.numbered", *self._options, env=env)

    def _start_sender(self, place: int) -> Program | None:
        first = self._tried_to()
        if first >= self._total:
            return None
        argv = [sys.executable, "-m", "support.numbered", *map(str, (first, self._total))]
        log = self.rig.folder / f"sender-{next(self._logs)}.log"
        return Program([*argv, str(self._per_second)], log=log, env=self._env)

    def _tried_to(self) -> int:
        """Return the first number that no sender has tried."""
        stops = [0]
        for path in self.notes.glob("sent-*"):
            lines = path.read_text().splitlines(keepends=True)
            stops += [int(line.split()[3]) for line in lines if line.startswith("trying")]
        return max(stops)
