"""The ledger's tables: made by migrations, pruned by retention, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.engine import make_url

from support.ledger import ledger_url
from support.lives import Life
from taskyard.ledger import migrate
from taskyard.ledger.database import Database, LedgerUnavailable
from taskyard.ledger.history import fold
from taskyard.ledger.retention import CHUNK, Rule, prune, rules_of
from taskyard.ledger.schema import jobs, metadata, runs
from taskyard.ledger.writing import merge
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.settings import Settings
from taskyard.shared.states import State

__all__ = ["ledger_url"]

NOW_MS = 10_000_000


@pytest.fixture
async def database(ledger_url) -> AsyncIterator[Database]:
    found = Database(ledger_url)
    await migrate.prepare(found)
    yield found
    await found.close()


async def test_migrations_make_the_tables_that_the_code_means(database):
    """A change of `schema.py` without a migration fails here."""
    async with database.begin() as connection:
        differences = await connection.run_sync(_compare)
    assert differences == []


def _compare(connection: Connection) -> list[object]:
    others = {
        "sqlite": {"ix_jobs_facets", "ix_jobs_created"},
        "postgresql": {"ix_jobs_created_id"},
    }[connection.dialect.name]

    def is_made_here(_: object, name: str, kind: str, *__: object) -> bool:
        """Say that an index of one database's own kind is not expected of the other."""
        return kind != "index" or name not in others

    options = {"compare_type": True, "include_object": is_made_here}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_newest_revision_is_known_without_alembic():
    """`HEAD` spares commands the loading of it."""
    config = Config()
    config.set_main_option("script_location", "taskyard.ledger:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == migrate.HEAD


async def test_many_may_make_them_at_once(ledger_url):
    """Replicas that start together: one makes the tables, the others find them."""
    databases = [Database(ledger_url) for _ in range(4)]
    await asyncio.gather(*map(migrate.prepare, databases))
    async with databases[0].begin() as connection:
        await migrate.check(connection, databases[0])
    await asyncio.gather(*(database.close() for database in databases))


async def test_a_newer_ledger_is_left_alone(database):
    """An older program refuses, in words, and changes nothing."""
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer than this program"):
        await migrate.prepare(database)
    with pytest.raises(ConfigurationError, match="newer than this program"):
        async with database.begin() as connection:
            await migrate.check(connection, database)


async def test_reading_makes_nothing(ledger_url):
    """Who only looks is told who makes the tables."""
    database = Database(ledger_url)
    with pytest.raises(ConfigurationError, match="taskyard coordinator"):
        async with database.begin() as connection:
            await migrate.check(connection, database)
    async with database.begin() as connection:
        assert await connection.run_sync(_compare)
    await database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "no URL of a database"),
        ("mysql://user@host/name", "PostgreSQL or SQLite, not in 'mysql'"),
        ("amqp://user@host/", "PostgreSQL or SQLite, not in 'amqp'"),
    ],
)
def test_a_wrong_url(url, words):
    """CR-05: the setting is named."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        Database(url)
    assert "TASKYARD_LEDGER_URL" in str(caught.value)


async def test_a_database_that_is_away():
    """The password is in no message."""
    database = Database("postgresql://user:geheim@127.0.0.1:9/name")
    with pytest.raises(LedgerUnavailable) as caught:
        async with database.begin():
            pass
    assert "geheim" not in str(caught.value)
    await database.close()


# ---------------------------------------------------------------- retention (ZS-10, ZS-80, ZP-18)


def life(name: str, *what: str, before_s: float = 0) -> Life:
    """Return the life of a job that ended so long before now."""
    made = Life(name, _now_ms=NOW_MS - round(before_s * 1000) - 1000)
    for each in what:
        assert made.go_on(each, told=True)
    return made


async def put(database: Database, *lives: Life) -> None:
    async with database.begin() as connection:
        await merge(connection, fold(item for each in lives for item in each.items))


async def swept(database: Database, *rules: Rule, now_ms: int = NOW_MS) -> set[str]:
    """Prune by rules until nothing goes, and return what is left."""
    for rule in rules:
        found = 1
        while found:
            async with database.begin() as connection:
                found = await prune(connection, rule, now_ms=now_ms)
    async with database.begin() as connection:
        left = set((await connection.execute(select(jobs.c.id))).scalars())
        assert set((await connection.execute(select(runs.c.job).distinct())).scalars()) <= left
    return left


async def test_each_outcome_has_its_own_age(database):
    """ZS-80, B-12: succeeded ones go after a second, failed ones stay; so do those that have not ended."""
    await put(
        database,
        life("ok", "succeeded", before_s=60),
        life("new", "succeeded"),
        life("cancelled", "cancelled", before_s=60),
        life("failed", "failed", before_s=60),
        life("parked", "parked", before_s=60),
        life("waiting", before_s=60),
    )
    rules = rules_of(Settings(ledger_keep_succeeded=30, ledger_keep_failed=3600))
    assert await swept(database, *rules) == {"new", "failed", "parked", "waiting"}
    rules = rules_of(Settings(ledger_keep_succeeded=0, ledger_keep_failed=0))
    assert await swept(database, *rules) == {"parked", "waiting"}


async def test_each_outcome_has_its_own_number(database):
    """ZS-80: the newest stay."""
    await put(database, *(life(f"ok{n}", "succeeded", before_s=9 - n) for n in range(9)))
    await put(database, *(life(f"bad{n}", "failed", before_s=9 - n) for n in range(3)))
    rules = rules_of(Settings(ledger_rows_succeeded=4, ledger_rows_failed=2))
    assert await swept(database, *rules) == {"ok5", "ok6", "ok7", "ok8", "bad1", "bad2"}
    rules = rules_of(Settings(ledger_rows_succeeded=0, ledger_rows_failed=5))
    assert await swept(database, *rules) == {"bad1", "bad2"}


async def test_what_is_kept_is_kept_for_ever(database):
    """ZS-10: retention does not touch it, nor count it; its twin goes."""
    await put(
        database, life("kept", "succeeded", before_s=60), life("twin", "succeeded", before_s=60)
    )
    async with database.begin() as connection:
        await connection.execute(update(jobs).where(jobs.c.id == "kept").values(kept=True))
    rules = rules_of(Settings(ledger_keep_succeeded=1, ledger_rows_succeeded=0))
    assert await swept(database, *rules) == {"kept"}


async def test_one_transaction_stays_short(database):
    """A million old jobs do not lock the recorder out: some go at a time."""
    number = CHUNK + 7
    await put(database, *(life(f"{n:05}", "succeeded", before_s=60) for n in range(number)))
    rule = Rule(states=(State.SUCCEEDED,), age_s=1)
    gone = []
    for _ in range(3):
        async with database.begin() as connection:
            gone.append(await prune(connection, rule, now_ms=NOW_MS))
    assert gone == [CHUNK, 7, 0]
    async with database.begin() as connection:
        assert (await connection.execute(select(func.count()).select_from(runs))).scalar_one() == 0


async def test_a_file_that_is_no_database(tmp_path):
    """What is in the file stays there."""
    path = tmp_path / "ledger.db"
    path.write_text("a letter, and no database at all" * 100)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(ConfigurationError, match="no database"):
        await migrate.prepare(database)
    assert path.read_text().startswith("a letter")
    await database.close()


async def test_two_writers_of_one_file_wait_for_one_another(tmp_path):
    """SQLite has one writer at a time: the other waits, and neither fails."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    await migrate.prepare(database)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(put(database, life("one", "succeeded")))
    done, _ = await asyncio.wait({writing}, timeout=0.3)
    assert not done
    other.execute("COMMIT")
    other.close()
    await writing
    assert await swept(database) == {"one"}
    await database.close()


async def test_a_database_that_refuses_all_is_an_outage(database):
    """A standby, a right taken away, no tables: no item is at fault, so none may be left out."""
    batch = fold(Life("one").items)
    faults = ["DROP TABLE jobs"]
    if database.is_postgresql:
        faults += [
            "SET TRANSACTION READ ONLY",
            "CREATE ROLE nobody_at_all; SET LOCAL ROLE nobody_at_all",
        ]
    for fault in faults:
        with pytest.raises(LedgerUnavailable):
            async with database.begin() as connection:
                for statement in fault.split("; "):
                    await connection.execute(text(statement))
                await merge(connection, batch)


@pytest.mark.postgresql
async def test_a_wrong_password_is_an_outage(postgres_url):
    """A password that was changed while the coordinator runs loses nothing, and is not shown."""
    url = make_url(postgres_url).set(username="nobody_at_all", password="s3cret")
    other = Database(url.render_as_string(hide_password=False))
    with pytest.raises(LedgerUnavailable) as caught:
        async with other.begin():
            pass
    await other.close()
    assert "s3cret" not in str(caught.value)


async def test_a_broken_file_is_an_outage(tmp_path):
    """A file of SQLite that is damaged refuses all, whatever the item."""
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}")
    await migrate.prepare(database)
    await database.close()
    with sqlite3.connect(tmp_path / "ledger.db") as file:
        file.execute("PRAGMA writable_schema = ON")
        file.execute("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'jobs'")
    file.close()
    with pytest.raises(LedgerUnavailable):
        async with database.begin() as connection:
            await merge(connection, fold(Life("one").items))
    await database.close()


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@host:port/db", "sqlite:////proc/no/l.db"])
def test_a_url_of_nothing_is_a_wrong_setting(url):
    """A port that is no number, a folder that cannot be made: in words, without the password."""
    with pytest.raises(ConfigurationError, match="TASKYARD_LEDGER_URL") as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)


async def test_closing_is_finished_when_it_is_cancelled(database, caplog):
    """`taskyard up` cancels what is closing already: no connection is torn, and nothing is logged."""
    async with database.begin() as connection:
        await connection.execute(select(func.count()).select_from(jobs))
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)  # it has begun
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert caplog.messages == []
    assert database.engine.pool.status().startswith("Pool size: 5  Connections in pool: 0")


def test_who_only_looks_makes_no_file(tmp_path):
    """A path that is mistyped is told, and nothing is made."""
    with pytest.raises(ConfigurationError, match="there is no ledger"):
        Database(f"sqlite:///{tmp_path / 'no' / 'ledger.db'}", create=False)
    assert list(tmp_path.iterdir()) == []
