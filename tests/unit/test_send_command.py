"""`taskyard send`: what it reads from the command line, prints and exits with."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import click
import pytest
from hypothesis import given, strategies as st

from taskyard.producer.cli import arguments, instant, split_target
from taskyard.shared import Context, Fail, Queue, RetryPolicy, Secret
from taskyard.shared.broker import Broker, QueueSpec, SetupSpec
from taskyard.shared.brokers import connect
from taskyard.shared.cli import main
from taskyard.shared.topology import plan

queue = Queue("send-tests", retry=RetryPolicy(attempts=1))


@queue.task
async def test(ctx: Context, message: str) -> dict[str, object]:
    return {"message": message, "priority": ctx.priority, "due": ctx.due.isoformat()}


test.__test__ = False  # type: ignore[attr-defined]  # it is a task, named as LQ-18 names it


@queue.task
def echo(**rest: object) -> object:
    return rest


@queue.task
def pay(ctx: Context, card: Secret[str]) -> object:
    return {"end": card.reveal()[-4:], "shown": repr(ctx.args)}


@queue.task
def failing() -> None:
    raise Fail("declined")


@queue.task
def broken() -> None:
    raise ZeroDivisionError


class Run:
    """One run of the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["send", *args])
        out, err = self._capsys.readouterr()
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return code or 0, out, err


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets logging up for its process: not for the test run's."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.getLogger().level)


@pytest.fixture
def send(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Send on the eager mode, whose results need no worker."""
    monkeypatch.setenv("TASKYARD_MODE", "eager")
    monkeypatch.delenv("TASKYARD_BROKER_URL", raising=False)
    return Run(capsys)


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """A memory broker with the queue of this module, named in the environment."""
    url = "memory://send-command"
    monkeypatch.setenv("TASKYARD_BROKER_URL", url)
    monkeypatch.delenv("TASKYARD_MODE", raising=False)
    broker = connect(url)
    await broker.open()
    spec = SetupSpec(queues=(QueueSpec(name=queue.name),))
    observed = await broker.observe(spec)
    await broker.apply(plan(broker.desired(spec, observed), observed))
    yield broker
    await broker.close()


def result(run: tuple[int, str, str]) -> object:
    code, out, err = run
    assert code == 0, err
    return json.loads(out)


def test_the_message_keeps_its_colons(send: Run) -> None:
    """`send queue:task:a:b:c` sends the message `a:b:c` (LQ-18)."""
    assert result(send("send-tests:test:a:b:c", "--wait"))["message"] == "a:b:c"  # type: ignore[index]
    assert result(send("send-tests:test:", "--wait"))["message"] == ""  # type: ignore[index]


def test_values_are_json_where_they_are(send: Run) -> None:
    """KEY=VALUE is read as JSON if it is JSON, else as text; --args gives all at once."""
    pairs = ("n=7", "ok=true", "list=[1, 2]", "text=seven", "eq=a=b", "empty=", 'quoted="7"')
    expected = {
        "n": 7, "ok": True, "list": [1, 2], "text": "seven", "eq": "a=b", "empty": "", "quoted": "7",
    }  # fmt: skip
    assert result(send("send-tests:echo", *pairs, "--wait")) == expected
    assert result(send("send-tests:echo:hi", "n=1", "--wait")) == {"message": "hi", "n": 1}
    assert result(send("send-tests:echo", "--args", '{"a": [null]}', "--wait")) == {"a": [None]}


def test_options_reach_the_job(send: Run) -> None:
    """Priority and due time are the job's own (ZS-08, ZS-11)."""
    run = send(
        "send-tests:test:x", "--wait", "--priority", "urgent", "--at", "2035-01-31T18:00:00+01:00"
    )
    assert result(run) == {"message": "x", "priority": 9, "due": "2035-01-31T17:00:00+00:00"}


def test_json_output(send: Run) -> None:
    """--json prints one object, with and without waiting."""
    sent = result(send("send-tests:echo", "--json"))
    assert set(sent) == {"id"}  # type: ignore[call-overload]
    waited = result(send("send-tests:echo", "n=1", "--json", "--wait"))
    assert waited["outcome"] == "succeeded"  # type: ignore[index]
    assert waited["result"] == {"n": 1}  # type: ignore[index]


def test_a_failed_job_exits_1_with_its_traceback(send: Run) -> None:
    """--wait ends with 1 for a failed or parked job; the worker's traceback is on stderr."""
    code, out, err = send("send-tests:failing", "--wait")
    assert (code, out) == (1, "")
    assert "failed (logical): declined" in err
    code, _, err = send("send-tests:broken", "--wait")
    assert code == 1
    assert "parked (exhausted)" in err
    assert "in broken" in err
    code, out, _ = send("send-tests:broken", "--wait", "--json")
    assert code == 1
    assert json.loads(out)["outcome"] == "parked"
    assert json.loads(out)["kind"] == "exhausted"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["send-tests"], "is not QUEUE:TASK"),
        ([":test"], "is not QUEUE:TASK"),
        (["send-tests:echo", "n"], "argument 1 is not KEY=VALUE"),
        (["send-tests:echo", "n=1", "n=2"], "'n' is given twice"),
        (["send-tests:echo:x", "message=y"], "'message' is given twice"),
        (["send-tests:echo", "n=1", "--args", "{}"], "not both"),
        (["send-tests:echo", "--args", "[1]"], "must be a JSON object"),
        (["send-tests:echo", "--at", "2035-01-31T18:00:00"], "time zone"),
        (["send-tests:echo", "--at", "tomorrow"], "ISO 8601"),
        (["send-tests:echo", "--name", "<b>"], "job name '<b>' is not valid: use 2 to 32"),
        (["send-tests:echo", "--delay", "soon"], "duration 'soon'"),
        (["send-tests:echo", "--priority", "highest"], "priority 'highest'"),
        (["send-tests:echo", "--delay", "1", "--at", "2035-01-31T18:00:00Z"], "either delay or at"),
        (["send-tests:echo", "--timeout", "5"], "--timeout needs --wait"),
        (["Send.Tests:echo"], "queue name"),
    ],
)
def test_wrong_calls_exit_2_in_words(send: Run, args: list[str], words: str) -> None:
    """What is wrong is said, nothing is sent, and the exit code is 2."""
    code, out, err = send(*args)
    assert (code, out) == (2, "")
    assert words in err


def test_no_broker_exits_2_naming_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without configuration the message names the exact key (ZS-19)."""
    monkeypatch.delenv("TASKYARD_BROKER_URL", raising=False)
    monkeypatch.delenv("TASKYARD_MODE", raising=False)
    code, _, err = Run(capsys)("send-tests:echo")
    assert code == 2
    assert "TASKYARD_BROKER_URL is not set" in err


async def test_what_was_sent_is_in_the_queue(
    memory: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job is stored with its arguments, and its id is printed (LQ-24)."""
    code, out, err = Run(capsys)(
        *("send-tests:test:hello", "--ttr", "5m", "--expires", "1h", "--name", "the first")
    )
    assert code == 0, err
    consumer = await memory.consume(queue.name, credit=10)
    sent = [delivery.envelope for delivery in await consumer.take() if delivery.envelope.id in out]
    assert len(sent) == 1
    assert sent[0].body == b'{"message":"hello"}'
    assert (sent[0].task, sent[0].ttr_ms) == ("send-tests.test", 300_000)
    assert sent[0].name == "the first"  # ZS-07
    assert sent[0].submitted_from == f"{socket.gethostname()}:{os.getpid()}"  # ZP-27


def test_no_result_in_time_exits_124(memory: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """--wait without a worker gives up after its timeout; the job goes on."""
    code, out, err = Run(capsys)("send-tests:test:hello", "--wait", "--timeout", "50ms")
    assert (code, out) == (124, "")
    assert "the job goes on" in err


def test_an_unknown_queue_exits_with_words(
    memory: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A queue that does not exist is an error that names what is known; exit 1, as for all that is
    not found (ZS-15, LQ-18).
    """
    code, out, err = Run(capsys)("send-test:test:hello")
    assert code == 1
    assert out == ""
    assert "queue 'send-test' does not exist" in err
    assert "Did you mean 'send-tests'?" in err


@given(st.text(), st.text())
def test_any_message_survives(task: str, message: str) -> None:
    """Whatever follows the second colon is the message, unchanged (LQ-18)."""
    if ":" in task or not task:
        return
    assert split_target(f"q:{task}:{message}") == ("q", task, message)
    assert arguments(message, (), None) == {"message": message}


def test_dates_carry_their_zone() -> None:
    """An offset or Z is needed; without one the instant is anybody's guess (ZS-11)."""
    assert instant("2035-01-31T18:00:00Z") == datetime(2035, 1, 31, 18, tzinfo=UTC)
    assert instant("2035-01-31 19:00+01:00") == datetime(2035, 1, 31, 18, tzinfo=UTC)
    with pytest.raises(click.UsageError, match="UTC"):
        instant("2035-01-31")


# ---------------------------------------------------------------- encrypted arguments


def test_a_secret_is_sealed_and_not_printed(send: Run) -> None:
    """`--secret` gives a Secret, as text whatever it looks like (ZS-21)."""
    code, out, err = send("send-tests:pay", "--secret", "card=4111111111111111", "--wait")
    assert (code, json.loads(out)["end"]) == (0, "1111")
    assert "4111111111111111" not in out + err


def test_a_secret_is_read_from_standard_input(send: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it stands on no command line; its last line break is not part of it."""
    monkeypatch.setattr("sys.stdin", io.StringIO("4111111111111234\n"))
    code, out, _ = send("send-tests:pay", "--secret", "card", "--wait")
    assert (code, json.loads(out)["end"]) == (0, "1234")


def test_everything_can_be_encrypted(send: Run) -> None:
    """`--encrypt` is the job's option."""
    code, out, _ = send("send-tests:echo", "n=7", "--encrypt", "--wait")
    assert (code, json.loads(out)) == (0, {"n": 7})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["card=1", "--secret", "card=4111"], "argument 'card' is given twice"),
        (["--secret", "=4111"], "--secret needs KEY"),
        (["--secret", "a", "--secret", "b"], "only one --secret can be read"),
        (["4111", "--encrypt"], "argument 1 is not KEY=VALUE"),
    ],
)
def test_wrong_secrets_are_refused_unquoted(send: Run, options: list[str], words: str) -> None:
    """What is wrong is said without the value."""
    code, out, err = send("send-tests:pay", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert "4111" not in err


async def test_without_a_key_nothing_leaves(
    memory: Broker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable, and the queue stays empty (ZS-21)."""
    monkeypatch.delenv("TASKYARD_ENCRYPTION_KEYS", raising=False)
    before = await memory.stats(["send-tests"])
    code, out, err = await asyncio.to_thread(
        Run(capsys), "send-tests:pay", "--secret", "card=4111111111111111"
    )
    assert (code, out) == (2, "")
    assert "TASKYARD_ENCRYPTION_KEYS is not set" in err
    assert "4111111111111111" not in err
    after = await memory.stats(["send-tests"])
    assert after["send-tests"].ready == before["send-tests"].ready
