"""What a test may do to a PostgreSQL server that it shares with others. Blocking; see `postgres`.

Its URLs name a plain role that owns its databases and nothing else, as in production: what would
need a superuser fails in tests, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from support.postgres_installation import PostgresInstallation, installed_postgres

USER = "taskyard"
SUPERUSER = "postgres"

#: Nothing of the developer's own: no PG… variable, no language, no zone.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}

#: What a client asks before it begins to speak TLS; the server answers with one letter.
_SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)


class PostgresFailed(RuntimeError):
    """The server did not start or stop, or refused a statement; the message holds what it said."""


class PostgresServer:
    """A server that this test run started; it may be used, but not broken, by many tests at once."""

    def __init__(
        self, installation: PostgresInstallation, port: int, password: str, version: str = ""
    ) -> None:
        """Describe a server of `installation` on `port` of 127.0.0.1."""
        self.installation = installation
        self.port = port
        self.password = password
        self.version = version
        """The release, such as `15`."""

    def url_of(self, name: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"

    @contextlib.contextmanager
    def database(self, name: str | None = None) -> Iterator[str]:
        """Create an empty database, give its URL, and drop it afterwards.

        Args:
            name: What to call it; a random name by default. Other characters than letters and
                digits become `_`, and something random is added, so that names never meet.
        """
        url = self.create_database(name)
        try:
            yield url
        finally:
            self.drop_database(url)

    def create_database(self, name: str | None = None) -> str:
        """Create an empty database and return its URL; see `database`."""
        readable = re.sub(r"[^a-z0-9]+", "_", (name or "test").lower()).strip("_")[-50:]
        unique = f"{readable}_{secrets.token_hex(4)}"
        # template0: nobody can be connected to it, which would forbid to copy it.
        self.sql(f'CREATE DATABASE "{unique}" OWNER {USER} TEMPLATE template0')
        return self.url_of(unique)

    def drop_database(self, url: str) -> None:
        """Drop the database of a URL; whoever is connected to it is thrown out."""
        self.sql(f'DROP DATABASE IF EXISTS "{urlsplit(url).path[1:]}" WITH (FORCE)')

    def sql(self, statement: str, *, database: str = SUPERUSER) -> str:
        """Run a statement as superuser.

        Returns:
            Its rows as lines, columns apart by `|`.

        Raises:
            PostgresFailed: The server refused it, or did not answer.
        """
        connection = f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname={database}"
        options = ["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [self.installation.program("psql"), *options, "-d", connection, "-c", statement],
            env={**ENVIRONMENT, "PGPASSWORD": self.password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise PostgresFailed(f"PostgreSQL refused {statement!r}: {done.stderr.strip()}")
        return done.stdout.strip()

    def answers(self, *, timeout_s: float = 5.0) -> bool:
        """Whether a server is there and answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as client:
                client.sendall(_SSL_REQUEST)
                return client.recv(1) in {b"S", b"N"}
        except OSError:
            return False

    def state(self) -> dict[str, Any]:
        """Return what another process of this test run needs to use it."""
        return {"port": self.port, "password": self.password, "version": self.version}


def running_postgres(state: Mapping[str, Any]) -> PostgresServer | None:
    """Return the server that another process of this test run started, or None if it is gone."""
    installation = installed_postgres()
    assert installation is not None
    server = PostgresServer(installation, state["port"], state["password"], state["version"])
    return server if server.answers() else None
