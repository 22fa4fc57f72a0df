"""A pile of parked jobs and an operator's commands on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from support.amqp_site import browse, publish
from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.process import Program
from support.rig import QUEUE, Rig
from taskyard.shared.broker import Settlement, SettleStatus
from taskyard.shared.envelope import Envelope, Parking, mint_id
from taskyard.shared.outcomes import ErrorInfo

#: A second queue, which nobody serves unless told to.
OTHER: Final = "other"


class Pile(Rig):
    """A broker with parked jobs, commands on it, and workers of the selftest queue."""

    def __init__(self, target: BrokerUnderTest, start: StartTaskyard, folder: Path) -> None:
        super().__init__(target, start, folder, queues=(QUEUE, OTHER))

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment, with what a command needs to find all queues."""
        management_url = self.target.management_url
        return super().env(
            **({"TASKYARD_MANAGEMENT_URL": management_url} if management_url else {}), **more
        )

    def command(self, *arguments: str) -> Program:
        """Start a `taskyard parked` command."""
        return self._start("parked", *arguments, env=self.env(), cwd=self.folder)

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end; return what it printed."""
        program = self.command(*arguments)
        assert await program.wait_exit(within=90) == code, program.output
        assert "Traceback" not in program.output
        return program.output

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with `--json`; return its document, whatever else it said before."""
        output = await self.run(*arguments, "--json", code=code)
        start = min(at for at in (output.find("{"), output.find("[")) if at >= 0)
        return json.loads(output[start:])

    async def park(
        self, tasks: Sequence[str], *, fingerprint: str = "", args: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> list[str]:  # fmt: skip
        """Park one new job of each of these tasks; return their ids in the order of parking."""
        note = {"path": str(self.notes)}
        sent = [
            Envelope(
                id=mint_id(),
                queue=QUEUE,
                task=f"{QUEUE}.{task}",
                body=json.dumps(args or (note if task == "record" else {})).encode(),
                **fields,
            )
            for task in tasks
        ]
        await publish(self.broker, sent)
        consumer = await self.broker.consume(QUEUE, credit=len(sent))
        order: list[str] = []
        error = ErrorInfo(type="E", fingerprint=fingerprint) if fingerprint else None
        while len(order) < len(sent):
            batch = await consumer.take()
            about = Parking(reason="exhausted", at_ms=self.broker.now_ms(), error=error)
            settlements = [
                Settlement(delivery=d, park=msgspec.structs.replace(d.envelope, parking=about))
                for d in batch
            ]
            statuses = await self.broker.settle(settlements, deadline_s=20)
            assert set(statuses) == {SettleStatus.SETTLED}
            order += [delivery.envelope.id for delivery in batch]
        await consumer.stop()
        return order

    async def lot(self) -> list[str]:
        """Return the ids in the lot, in order."""
        return await browse(self.broker, QUEUE)

    def seconds(self) -> list[float]:
        """Return when the noted runs began, in order."""
        return sorted(run["started"] for run in self.seen())

    def runs(self) -> Counter[str]:
        """Return how often each job was run."""
        return Counter(run["job"] for run in self.seen())
