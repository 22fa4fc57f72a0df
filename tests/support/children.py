"""What tests of child processes share: a worker on the memory broker, and its children's notes."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from support.eventually import eventually, written
from support.workbench import Workbench
from taskyard.shared import Job
from taskyard.shared.feed import FeedRecord
from taskyard.shared.log_lines import Event

#: Seconds: Python starts slowly on a loaded machine.
WITHIN = 40

#: Names the file of `Bench.noted` to the handlers.
NOTES = "PROCESS_TASKS_NOTES"


class Bench(Workbench):
    """A workbench whose jobs run in child processes, which write notes."""

    @property
    def notes(self) -> Path:
        """The file; `NOTES` has to name it."""
        return self.folder / "notes"

    def noted(self) -> list[tuple[str, str]]:
        """Return what processes noted so far: process id and text."""
        if not self.notes.exists():
            return []
        pairs = (line.partition(" ") for line in self.notes.read_text().splitlines())
        return [(pid, text) for pid, _, text in pairs]

    async def ends(self, job_id: str, number: int = 1) -> list[FeedRecord]:
        """Wait for so many ends of a job's attempts and return their records."""

        async def told() -> list[FeedRecord]:
            records = [r for r in await self.records(job_id) if r.event == "finished"]
            return records if len(records) >= number else []

        return await eventually(told, within=WITHIN)

    async def value_of(self, job: Job[Any]) -> Any:
        """Send a job, wait for its success, and return its value."""
        (job_id,) = await self.send(job)
        (record,) = await self.ends(job_id)
        assert record.outcome == "succeeded", (record.outcome, record.detail, record.error)
        return None if record.value is None else msgspec.json.decode(record.value)


async def pids_in(path: Path) -> list[int]:
    """Wait until a file is written and return the process ids in it."""
    return [int(pid) for pid in (await written(path, within=WITHIN)).split()]


def said(records: Iterable[logging.LogRecord], job_id: str = "") -> list[dict[str, Any]]:
    """Return what was logged, of one job or of all, as fields, whether logging is configured or not."""
    found = []
    for record in records:
        fields = _fields_of(record)
        fields |= {"logger": record.name, "level": record.levelname.lower()}
        if job_id in {"", fields.get("job_id")}:
            found.append(fields)
    return found


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    if isinstance(record.msg, Event):
        return {"event": record.msg.name, **record.msg.fields}
    return _read(record.getMessage())


def _read(line: str) -> dict[str, Any]:
    """Read an event as text."""
    pairs = re.findall(r"""(\w+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)""", line)
    return {name: value.strip("'\"") for name, value in pairs}
