"""Any words may follow `taskyard`: it does what they say, or ends with a code of ours and a sentence."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from taskyard.shared import cli

CODES = {
    cli.DONE,
    cli.NO,
    cli.USAGE,
    cli.UNAVAILABLE,
    cli.ALREADY_RUNNING,
    cli.TIMED_OUT,
}
#: These wait for what may never come.
ENDLESS = {"--wait", "--watch"}
#: These run until they are stopped, so they get a module that does not exist.
RUNNING = {"worker", "up"}
NO_MODULE = "no_module_of_this_name"
COMMANDS: dict[str, click.Command] = {
    point.name: point.load() for point in entry_points(group=cli.GROUP)
}
PLAUSIBLE = (
    "shop",
    "mail",
    "mail:pay",
    "0198c5a0-0000-7000-8000-000000000000",
    "01",
    "a=1",
    "a=",
    "=1",
    "=",
    "a={",
    "{}",
    "[]",
    "null",
    '{"a":1}',
    '{"a":',
    "1s",
    "-1s",
    "5/s",
    "0/s",
    "1e999/s",
    "nan",
    "inf",
    "1e999",
    "-0",
    "0",
    "9",
    "10",
    "99999999999999999999999",
    "2026-02-30T00:00",
    "2026-11-27T12:00:00+99:00",
    "+00:00",
    "-",
    "--",
    "--help",
    "k1:AAAA",
    "sqlite:///",
    "sqlite:////proc/x",
    "json",
    "*",
    "../..",
    "%",
    "tasks.jobs",
    "",
)
WORDS = st.one_of(
    st.sampled_from(PLAUSIBLE),
    # What a shell can pass: any bytes but NUL.
    st.binary(max_size=20).map(
        lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape")
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.just("x" * 5000),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(COMMANDS)))
    options = [
        option
        for each in COMMANDS[name].params
        if isinstance(each, click.Option) and not each.hidden
        for option in each.opts
        if option not in ENDLESS
    ]
    arguments = draw(st.lists(st.one_of(st.sampled_from(options or ["--json"]), WORDS), max_size=6))
    first = [NO_MODULE] if name in RUNNING else []
    return [*name.split("."), *first, *arguments]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A broker on a file, with a queue."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKYARD_BROKER_URL", f"sqlite:///{tmp_path / 'broker.db'}")
    monkeypatch.setenv("TASKYARD_METRICS_PORT", "0")
    with pytest.raises(SystemExit) as ended:
        cli.main(["broker", "apply", "--queue", "mail"])
    assert ended.value.code == 0
    return tmp_path


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=command_lines())
@example(arguments=["send", "mail:pay", "--ttr", "1e999"])
@example(arguments=["send", "mail:pay", "--delay", "nan"])
@example(arguments=["send", "mail:pay", "\udcff=\udcff"])
@example(arguments=["send", "mail:pay", "--args", '{"a": "\\ud800"}'])
@example(arguments=["queues", "pause", "mail", "--for", "inf"])
@example(arguments=["queues", "pause", "mail", "--reason", "\udcff"])
@example(arguments=["parked", "list", "-n", "99999999999999999999999"])
@example(arguments=["jobs", "cancel", "\udcff"])
@example(arguments=["relay", "sqlite:////proc/nowhere/x"])
@example(arguments=["worker", NO_MODULE, "--max-rss", "1e999"])
def test_any_command_line(
    at_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No traceback, no code that is not ours, and a refusal says why."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert ended.value.code in CODES
    assert ended.value.code == cli.DONE or said.err or said.out
