"""The fixtures of PostgreSQL, as a test of the product uses them; and what happens without it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support import postgres_installation as installation_module
from support.eventually import eventually_blocking
from support.postgres_fixtures import ABSENT
from support.postgres_installation import PostgresInstallation, installed_postgres, server_user
from support.postgres_server import running_postgres
from support.shared_server import SharedServer

REPOSITORY = Path(__file__).resolve().parents[2]

OTHER = """
    import sys, time
    from pathlib import Path
    from support.postgres_server import running_postgres
    from support.shared_server import SharedServer
    shared = SharedServer(Path(sys.argv[1]), ["postgresql", sys.argv[2]], running_postgres)
    print(shared.use().port, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("store", ["none", pytest.param("some", marks=pytest.mark.postgresql)])
def test_a_parameter_may_ask_for_a_database(store: str, request: pytest.FixtureRequest) -> None:
    """A test that asks for it while it runs gets one, and marks that parameter itself."""
    marked = request.node.get_closest_marker("postgresql") is not None
    assert marked == (store == "some")
    if marked:
        assert request.getfixturevalue("postgres_url").startswith("postgresql://taskyard:")


def test_a_test_with_a_database_is_marked(
    postgres_url: str, request: pytest.FixtureRequest
) -> None:
    """`make test-unit` leaves it out by its marker, which the fixture brings along."""
    assert request.node.get_closest_marker("postgresql") is not None


@pytest.mark.slow
def test_processes_share_a_server_until_the_last_is_gone(
    postgres_installation: PostgresInstallation, tmp_path: Path
) -> None:
    """A second process gets the same server; it ends when neither uses it, and not before.

    A process that is killed no longer uses it, and whoever comes after the end gets a new server.
    """
    state, folder = tmp_path / "postgresql.json", str(postgres_installation.folder)
    command = [sys.executable, "-c", textwrap.dedent(OTHER), str(state), folder]
    other = subprocess.Popen(command, cwd=REPOSITORY / "tests", stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    shared = SharedServer(state, ["postgresql", folder], running_postgres)
    try:
        server = shared.use()
        assert int(other.stdout.readline()) == server.port
        shared.release()
        assert server.answers()
        assert shared.use().port == server.port
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert server.answers()

    shared.release()
    eventually_blocking(lambda: not server.answers(), hint="server ended")
    try:
        assert shared.use().password != server.password
    finally:
        shared.release()


def programs(folder: Path, *names: str) -> Path:
    """Make a folder of programs that do nothing."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_the_programs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the PATH come first, by way of a link; then Debian's newest; incomplete ones never."""
    debian = tmp_path / "debian"
    monkeypatch.setattr(installation_module, "_DEBIAN_FOLDER", str(debian))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert installed_postgres() is None

    every = ("initdb", "postgres", "psql")
    programs(debian / "9.6/bin", *every)
    newest = programs(debian / "15/bin", *every)
    programs(debian / "16/bin", "psql")
    assert installed_postgres() == PostgresInstallation(folder=newest)

    own = programs(tmp_path / "own", *every)
    programs(tmp_path / "path").joinpath("postgres").symlink_to(own / "postgres")
    assert installed_postgres() == PostgresInstallation(folder=own)


def test_root_hands_the_server_to_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """`postgres`, else `nobody`, else words; who is not root runs it as it is."""
    nobody = next(each for each in pwd.getpwall() if each.pw_name == "nobody")
    postgres = pwd.struct_passwd(("postgres", *nobody[1:]))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for accounts, expected in (([nobody, postgres], "postgres"), ([nobody], "nobody")):
        monkeypatch.setattr(pwd, "getpwall", lambda accounts=accounts: accounts)
        assert server_user() == expected
    monkeypatch.setattr(pwd, "getpwall", list)
    with pytest.raises(LookupError, match="refuses to run as root"):
        server_user()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_user() is None


def run_pytest(tmp_path: Path, **environment: str) -> str:
    """Run one test that needs PostgreSQL, in a run that finds none, and return its report."""
    hook = tmp_path / "hook"
    hook.mkdir()
    hide = "import support.postgres_installation as p; p._folders = lambda: []\n"
    (hook / "hide_postgres.py").write_text(hide)
    name = f"{Path(__file__)}::test_a_test_with_a_database_is_marked"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs"]
    kept = {key: value for key, value in os.environ.items() if key != "CI"}
    path = os.pathsep.join([str(hook), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "run"), name],
        cwd=REPOSITORY,
        env={**kept, "PYTHONPATH": path, "PYTEST_PLUGINS": "hide_postgres", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_without_postgresql_a_laptop_skips_loudly(tmp_path: Path) -> None:
    """The test is skipped, and the report says so in its head and in a section."""
    report = run_pytest(tmp_path)
    assert "PostgreSQL: none" in report
    assert "1 skipped" in report
    assert "NOT TESTED ON POSTGRESQL" in report
    assert f"1 tests: {ABSENT}." in report


def test_without_postgresql_ci_fails(tmp_path: Path) -> None:
    """Where CI is set, a missing PostgreSQL is a failure."""
    assert "1 error" in run_pytest(tmp_path, CI="1")
