"""What one coordinator of all does: prune, and write live intents again; another takes over."""

from __future__ import annotations

from support.eventually import eventually
from support.ledger import ledger, ledger_url, rig
from taskyard.shared.control import pause_record

__all__ = ["ledger", "ledger_url", "rig"]

LEADS = "prunes and compacts from now on"


async def test_a_coordinator_prunes(rig, ledger):
    """ZS-80: what its settings let go is gone, what they keep stays."""
    async with rig:
        first = await ledger.coordinator()
        await rig.worker()
        await rig.send(rig.job("ok"), rig.job("fail"), rig.job("ok", delay=600))
        await ledger.until({"succeeded": 1, "failed": 1, "queued": 1})
        first.terminate()
        assert await first.wait_exit(within=20) == 0
        await ledger.coordinator({"TASKYARD_LEDGER_KEEP_SUCCEEDED": "0"})
        await ledger.until({"failed": 1, "queued": 1})


async def test_intents_are_written_again(rig, ledger):
    """Live ones, before the control log forgets them."""
    async with rig:
        await rig.intend(pause_record("default", by="me", at_ms=rig.broker.now_ms()))
        await ledger.coordinator()

        async def twice() -> bool:
            seen: list[str] = []
            async for batch in rig.broker.follow_control():
                seen += [record.op for record in batch.records]
                if batch.caught_up:
                    break
            return seen.count("pause") >= 2

        await eventually(twice, within=20, every=0.2)


async def test_another_takes_over(rig, ledger):
    """Of two coordinators one keeps house; when it is killed, the other does."""
    async with rig:
        one = await ledger.coordinator()
        await one.wait_line(LEADS, within=20)
        other = await ledger.coordinator()
        assert LEADS not in other.output
        one.kill()
        await other.wait_line(LEADS, within=40)
