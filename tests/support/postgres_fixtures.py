"""The fixtures of every test that needs PostgreSQL. All are synchronous, so that any test may use them.

A test that uses one gets the marker `postgresql`. One that asks for it by `getfixturevalue`, for one
of its parameters only, puts the marker on that parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.fixtures import run_folder
from support.postgres import Postgres
from support.postgres_installation import PostgresInstallation, installed_postgres
from support.postgres_server import PostgresServer, running_postgres
from support.shared_server import SharedServer

ABSENT = "PostgreSQL is not installed here, so this was not tested"


@pytest.fixture(scope="session")
def postgres_installation() -> PostgresInstallation:
    """The installation, for tests that start servers of their own (`Postgres`).

    Where there is none the test is skipped; it fails where `CI` is set.
    """
    found = installed_postgres()
    if found is not None:
        return found
    words = f"{ABSENT}; install postgresql, so that initdb, postgres and psql are on the PATH"
    if os.environ.get("CI"):
        pytest.fail(words, pytrace=False)
    pytest.skip(words)


@pytest.fixture(scope="session")
def shared_postgres(
    postgres_installation: PostgresInstallation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """A running server; all workers of the test run share it, so leave it as it is."""
    state = run_folder(tmp_path_factory) / "postgresql.json"
    maker = ["postgresql", str(postgres_installation.folder)]
    server = SharedServer(state, maker, running_postgres)
    yield server.use()
    server.release()


@pytest.fixture
def postgres_url(shared_postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a fresh database, named after the test and dropped after it."""
    with shared_postgres.database(request.node.name) as url:
        yield url


@pytest.fixture(scope="session")
def private_postgres_server(postgres_installation: PostgresInstallation) -> Iterator[Postgres]:
    """One server for the tests of this process that stop it, one after another."""
    server = Postgres(postgres_installation)
    yield server
    server.close()


@pytest.fixture
def private_postgres(private_postgres_server: Postgres) -> Postgres:
    """A running server that this test may stop or kill; `database` gives it a database."""
    private_postgres_server.start()
    return private_postgres_server


def mark(item: pytest.Item) -> None:
    """Give a test that uses our fixtures the marker `postgresql`."""
    if "postgres_installation" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.postgresql)


def describe() -> str:
    """Return a line on the server, for the head of the report."""
    found = installed_postgres()
    return f"PostgreSQL: {found.folder if found is not None else 'none'}"
