"""A ledger beside a rig: coordinators as processes, and what is in the database."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Select, func, select

from support.broker import BrokerUnderTest
from support.eventually import eventually
from support.fixtures import StartTaskyard
from support.process import Program
from support.rig import Rig
from taskyard.ledger.database import Database
from taskyard.ledger.schema import jobs, runs

T = TypeVar("T")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database for a ledger, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        yield request.getfixturevalue("postgres_url")


@pytest.fixture
def rig(broker_url: BrokerUnderTest, taskyard: StartTaskyard, tmp_path: Path) -> Rig:
    """A broker that records."""
    return Rig(broker_url, taskyard, tmp_path, ledger=True)


@pytest.fixture
def ledger(rig: Rig, taskyard: StartTaskyard, ledger_url: str) -> Ledger:
    """A ledger beside it, on each database."""
    return Ledger(rig, taskyard, ledger_url)


#: Runs a command: its exit code and what it said, JSON if it is that.
Command = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def command(rig: Rig, taskyard: StartTaskyard, ledger_url: str) -> Command:
    """A command on broker and ledger."""

    async def run(*words: str) -> tuple[int, Any]:
        env = rig.env(TASKYARD_LEDGER_URL=ledger_url)
        program = taskyard(*words, env=env, cwd=rig.folder)
        code = await program.wait_exit(within=60)
        try:
            return code, json.loads(program.output)
        except ValueError:
            return code, program.output

    return run


class Ledger:
    """`Ledger(rig, taskyard, url)`: starts coordinators on the rig's broker, and looks."""

    def __init__(self, rig: Rig, start: StartTaskyard, url: str) -> None:
        self._rig = rig
        self._start = start
        self.url = url

    def start(self, env: Mapping[str, str] | None = None) -> Program:
        """Start a coordinator process."""
        variables = self._rig.env(TASKYARD_LEDGER_URL=self.url, **(env or {}))
        return self._start("coordinator", env=variables, cwd=self._rig.folder)

    async def coordinator(self, env: Mapping[str, str] | None = None) -> Program:
        """Start a coordinator process and wait until it is ready."""
        program = self.start(env)
        await self._rig.ready(program)
        return program

    async def rows(self, statement: Select[Any]) -> list[dict[str, Any]]:
        """Return what a statement finds."""
        database = Database(self.url)
        try:
            async with database.begin() as connection:
                return [dict(row) for row in (await connection.execute(statement)).mappings()]
        finally:
            await database.close()

    async def jobs(self, ids: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the rows of jobs by id: some or all."""
        statement = select(jobs)
        if ids is not None:
            statement = statement.where(jobs.c.id.in_(ids))
        return {row["id"]: row for row in await self.rows(statement)}

    async def runs(self, job_id: str) -> list[dict[str, Any]]:
        """Return the runs of a job, in order."""
        order = (runs.c.attempt, runs.c.deliveries, runs.c.ended_ms)
        return await self.rows(select(runs).where(runs.c.job == job_id).order_by(*order))

    async def states(self) -> dict[str, int]:
        """Count jobs by state."""
        rows = await self.rows(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state))
        return {row["state"]: row["n"] for row in rows}

    async def until(self, states: Mapping[str, int], *, within: float = 30) -> None:
        """Wait until there are so many jobs of each state, and no others."""

        async def so() -> bool:
            assert await self.states() == states
            return True

        await eventually(so, within=within, every=0.1, hint=f"the ledger has {states}")

    async def when(
        self, job_id: str, check: Callable[[dict[str, Any]], T], *, within: float = 20
    ) -> T:
        """Wait until something true holds of a job's row, and return it."""

        async def look() -> T:
            return check((await self.jobs([job_id]))[job_id])

        return await eventually(look, within=within, every=0.1)
