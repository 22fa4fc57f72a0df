"""The private PostgreSQL servers, and what a test may do to them."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from support import postgres as postgres_module
from support.eventually import eventually_blocking
from support.postgres import Postgres
from support.postgres_installation import PostgresInstallation, installed_postgres, server_user
from support.postgres_server import PostgresFailed, PostgresServer
from support.process import wait_gone_blocking

OWNER = """
    import time
    from support.postgres import Postgres
    from support.postgres_installation import installed_postgres
    server = Postgres(installed_postgres())
    server.start()
    print(server.pid, server.folder, flush=True)
    time.sleep(600)
"""


def command(url: str) -> list[str]:
    """Return the command line of a client, as a user of the URL would start it."""
    installation = installed_postgres()
    assert installation is not None
    return [installation.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", url]


def client(url: str) -> subprocess.Popen[str]:
    """Start a client that is connected to a database and has had an answer."""
    started = subprocess.Popen(
        command(url),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write("SELECT 'connected';\n")
    started.stdin.flush()
    assert started.stdout.readline() == "connected\n"
    return started


def ask(url: str, statement: str) -> str:
    """Run a statement as a user of the URL; return what the server said, errors included."""
    done = subprocess.run(
        [*command(url), "-c", statement], capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stdout + done.stderr).strip()


def segments(pid: int) -> list[str]:
    """List the segments of System V memory that a process has made and nobody has removed."""
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[4] == str(pid)]


def test_a_server_is_private_and_as_in_production(private_postgres: Postgres) -> None:
    """It listens on loopback only, in UTF-8, waits for the disk, and runs as whom it has to."""
    process = psutil.Process(private_postgres.pid)
    listening = {
        (each.laddr.ip, each.laddr.port)
        for each in process.net_connections("all")
        if isinstance(each.laddr, tuple) and each.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", private_postgres.port)}
    assert not [each for each in process.net_connections("unix") if each.laddr]
    assert process.username() == (server_user() or pwd.getpwuid(os.getuid()).pw_name)
    assert private_postgres.sql("SHOW fsync") == "on"
    assert private_postgres.sql("SHOW server_version").startswith(private_postgres.version)
    with private_postgres.database() as url:
        assert ask(url, "SHOW server_encoding") == "UTF8"


def test_databases_are_separate(shared_postgres: PostgresServer, postgres_url: str) -> None:
    """Each is empty, named after its test, and sees nothing of another."""
    assert "/test_databases_are_separate_" in postgres_url
    with shared_postgres.database("other") as other:
        assert ask(postgres_url, "CREATE TABLE t AS SELECT 1 AS x") == ""
        assert ask(postgres_url, "SELECT x FROM t") == "1"
        assert 'relation "t" does not exist' in ask(other, "SELECT x FROM t")


def test_the_user_of_a_url_is_no_superuser(postgres_url: str) -> None:
    """What needs a superuser in production fails in tests, too; the database is the user's own."""
    assert "permission denied" in ask(postgres_url, "CREATE ROLE somebody")
    assert ask(postgres_url, "CREATE SCHEMA own; SELECT current_user") == "taskyard"


def test_a_wrong_password_is_refused(postgres_url: str) -> None:
    """A client proves that it passes the password on."""
    wrong = postgres_url.replace("@127.0.0.1", "x@127.0.0.1")
    assert "password authentication failed" in ask(wrong, "SELECT 1")


def test_a_database_is_dropped_under_its_clients(shared_postgres: PostgresServer) -> None:
    """Whoever is still connected is thrown out, and nothing of it is left."""
    with shared_postgres.database("doomed") as url:
        connected = client(url)
    said, _ = connected.communicate("SELECT 1;\n", timeout=30)
    assert "terminating connection" in said
    name = url.rpartition("/")[2]
    found = shared_postgres.sql(f"SELECT count(*) FROM pg_database WHERE datname = '{name}'")
    assert found == "0"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_outage_keeps_what_was_committed(private_postgres: Postgres, how: str) -> None:
    """While the server is down nobody answers; started again, at the same URL, it has its data."""
    with private_postgres.database() as url:
        assert ask(url, "CREATE TABLE t AS SELECT 'precious' AS x") == ""
        connected = client(url)
        before = private_postgres.pid

        getattr(private_postgres, how)()
        assert not private_postgres.answers()
        assert private_postgres.pid == 0
        wait_gone_blocking(before)
        assert connected.communicate("SELECT 1;\n", timeout=30)[0] != "1\n"
        with pytest.raises(PostgresFailed, match="refused"):
            private_postgres.sql("SELECT 1")

        private_postgres.start()
        assert private_postgres.answers()
        assert ask(url, "SELECT x FROM t") == "precious"


def test_a_test_may_leave_its_server_stopped(private_postgres: Postgres) -> None:
    """The database is dropped all the same."""
    with private_postgres.database() as url:
        private_postgres.stop()
    name = url.rpartition("/")[2]
    assert name not in private_postgres.sql("SELECT datname FROM pg_database").splitlines()


def test_without_the_disk_and_without_a_user_of_its_own(
    postgres_installation: PostgresInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fsync=False` reaches it, `nobody` will do, and once killed and closed it leaves nothing."""
    user = "nobody" if os.geteuid() == 0 else None
    monkeypatch.setattr(postgres_module, "server_user", lambda: user)
    server = Postgres(postgres_installation, fsync=False)
    try:
        server.start()
        assert server.sql("SHOW fsync") == "off"
        pid = server.pid
        assert user is None or psutil.Process(pid).username() == user
        assert segments(pid)
        server.kill()
        assert segments(pid)
    finally:
        server.close()
    assert not segments(pid)
    assert not server.folder.exists()


def test_a_server_that_cannot_start_says_why(postgres_installation: PostgresInstallation) -> None:
    """It fails at once, with the server's own words, and leaves nothing."""
    server = Postgres(postgres_installation)
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        with pytest.raises(PostgresFailed, match="could not bind"):
            server.start()
    server.close()
    assert not server.folder.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("postgres_installation")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_process_that_started_a_server(how: signal.Signals) -> None:
    """However its owner ends, the server, its folder and its shared memory are gone soon after."""
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    tree = psutil.Process(owner.pid).children(recursive=True)
    assert int(pid) in [process.pid for process in tree]
    assert segments(int(pid))

    os.kill(owner.pid, how)
    owner.wait(10)
    owner.stdout.close()

    for process in tree:
        wait_gone_blocking(process.pid)
    assert not segments(int(pid))
    eventually_blocking(lambda: not Path(folder).exists(), hint="folder removed")
