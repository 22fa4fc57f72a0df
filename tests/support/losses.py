"""Ways in which a broker loses jobs: a queue emptied by hand, and everything gone."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support.broker import BrokerUnderTest
from support.fixtures import StartTaskyard
from support.management import Management
from support.rig import Rig
from support.server import vhost_of
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.broker import BrokerOptions
from taskyard.shared.brokers import connect

NAMES = Names()


class Managed(Rig):
    """A rig whose broker and commands may ask RabbitMQ's management API, as operators' do."""

    def __init__(
        self, target: BrokerUnderTest, start: StartTaskyard, folder: Path, **options: Any
    ) -> None:
        super().__init__(target, start, folder, **options)
        self.broker = connect(target.url, BrokerOptions(management_url=target.management_url))

    def env(self, **more: str) -> dict[str, str]:
        """Return what commands need, with the management API."""
        url = self.target.management_url
        return super().env(**({"TASKYARD_MANAGEMENT_URL": url} if url else {}), **more)


def file_of(target: BrokerUnderTest) -> Path:
    """Return the file of a broker on SQLite."""
    return Path(target.url.removeprefix("sqlite:///"))


def management_of(target: BrokerUnderTest) -> Management:
    """Return the management API of a broker on RabbitMQ."""
    assert target.management_url is not None
    return Management(target.management_url)


async def purge(target: BrokerUnderTest, queue: str) -> None:
    """Empty a queue by hand; what is in workers' hands stays there."""
    await asyncio.to_thread(_purge, target, queue)


def _purge(target: BrokerUnderTest, queue: str) -> None:
    if target.kind == "rabbitmq":
        management_of(target).purge_queue(vhost_of(target.url), NAMES.work_queue(queue))
        return
    with closing(sqlite3.connect(file_of(target), timeout=10)) as database, database:
        database.execute(
            "DELETE FROM taskyard_jobs WHERE state = 1 "
            "AND queue = (SELECT id FROM taskyard_queues WHERE name = ?)",
            (queue,),
        )
        database.execute(
            "DELETE FROM taskyard_payloads WHERE seq NOT IN (SELECT seq FROM taskyard_jobs)"
        )


async def wipe(target: BrokerUnderTest) -> None:
    """Have the broker lose all that it holds: set-up, jobs, feed, control log. Nobody uses it now."""
    await asyncio.to_thread(_wipe, target)
    if target.kind == "rabbitmq":
        broker = connect(target.url)
        await broker.open()  # it is back
        await broker.close()


def _wipe(target: BrokerUnderTest) -> None:
    if target.kind == "rabbitmq":
        vhost = vhost_of(target.url)
        management_of(target).delete_vhost(vhost)
        management_of(target).add_vhost(vhost)
        return
    path = file_of(target)
    for each in path.parent.glob(f"{path.name}*"):
        if each.is_file():
            each.unlink()
