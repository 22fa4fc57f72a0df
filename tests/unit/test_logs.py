"""Log lines: ours, the standard library's and structlog's, in one place and one form."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import structlog

from taskyard.shared.log_lines import LineFormatter, as_json, as_text
from taskyard.shared.logs import Logger, log_json
from taskyard.shared.structlogs import adopt_structlog


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Where all lines go, as JSON; what was configured before comes back."""
    root, level = logging.getLogger(), logging.getLogger().level
    configured, before = structlog.is_configured(), structlog.get_config()
    structlog.reset_defaults()
    monkeypatch.setattr(root, "handlers", [])
    found = io.StringIO()
    log_json(found, "info")
    yield found
    root.setLevel(level)
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_holds_event_fields_and_what_every_line_has(stream: io.StringIO) -> None:
    """Fields stay what they are; what has no JSON form is shown as Python shows it."""
    Logger("shop").info("paid", amount=3, to=Path("x"), note="é\n")
    (line,) = lines(stream)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "event": "paid", "level": "info", "logger": "shop",
        "amount": 3, "to": "PosixPath('x')", "note": "é\n",
    }  # fmt: skip


def test_a_level_below_is_not_logged(stream: io.StringIO) -> None:
    """Only what is asked for is written."""
    Logger("shop").debug("looked")
    Logger("shop").warning("odd")
    assert [line["event"] for line in lines(stream)] == ["odd"]


def test_errors_have_their_traceback(stream: io.StringIO) -> None:
    """Of the exception that is being handled, in one field of one line."""
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        Logger("shop").exception("not paid", job="j1")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["job"]) == ("not paid", "error", "j1")
    assert str(line["exception"]).endswith("ZeroDivisionError: division by zero")


def test_libraries_look_the_same(stream: io.StringIO) -> None:
    """The standard library's records are lines like ours."""
    logging.getLogger("lib").warning("no %s", "luck")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("no luck", "warning", "lib")


def test_structlog_goes_where_ours_goes(stream: io.StringIO) -> None:
    """An application's structlog is adopted: fields, bound values, errors, and its context."""
    with structlog.contextvars.bound_contextvars(tenant="t1"):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            structlog.get_logger("theirs").bind(shop="s1").exception("failed", n=1)
    (line,) = lines(stream)
    assert {"event": "failed", "level": "error", "logger": "theirs"}.items() <= line.items()
    assert {"shop": "s1", "n": 1, "tenant": "t1"}.items() <= line.items()
    assert "ZeroDivisionError" in str(line["exception"])


def test_what_is_bound_in_structlogs_context_is_in_every_line(stream: io.StringIO) -> None:
    """Those of libraries and ours too: a middleware binds a tenant once, and finds all it did."""
    with structlog.contextvars.bound_contextvars(tenant="t1", n=1):
        logging.getLogger("lib").warning("slow")
        Logger("shop").info("paid", n=2)
    logging.getLogger("lib").warning("after")
    slow, paid, after = lines(stream)
    assert (slow["tenant"], slow["n"]) == ("t1", 1)
    assert (paid["tenant"], paid["n"]) == ("t1", 2)
    assert "tenant" not in after


def test_a_structlog_that_is_configured_is_left_alone(stream: io.StringIO) -> None:
    """An application that decided where its lines go keeps that, and gets ours as well."""
    theirs: list[dict[str, object]] = []

    def take(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        theirs.append({"method": method, **event})
        raise structlog.DropEvent

    structlog.configure(processors=[take])
    adopt_structlog()
    structlog.get_logger("theirs").info("one")
    Logger("shop").warning("two", n=2)
    assert theirs == [
        {"method": "info", "event": "one"},
        {"method": "warning", "event": "two", "n": 2},
    ]
    assert not lines(stream)


def test_unconfigured_lines_are_text_for_the_programs_own_logging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a program of somebody else a line is a record of its logging, with fields as text."""
    monkeypatch.delitem(sys.modules, "structlog")
    Logger("shop").warning("odd", job="a b", n=1)
    (record,) = caplog.records
    assert record.getMessage() == "event='odd' job='a b' n=1"
    assert (record.name, record.funcName) == ("shop", _this(record))


def _this(record: logging.LogRecord) -> str:
    """The place that is named is the one that logged."""
    assert record.pathname == __file__
    return "test_unconfigured_lines_are_text_for_the_programs_own_logging"


def test_lines_for_people() -> None:
    """Time, level, event, logger and fields in columns; colours where a person reads them."""
    record = logging.LogRecord("shop", logging.INFO, "", 0, "paid", (), None)
    record.created = 0
    plain = LineFormatter(lambda line: as_text({**line, "to": "a b", "n": "7"}, colours=False))
    begin = "1970-01-01T00:00:00.000000Z [info     ] paid".ljust(70)
    assert plain.format(record) == f"{begin} [shop] n=7 to='a b'"
    coloured = LineFormatter(lambda line: as_text(line, colours=True)).format(record)
    assert "\x1b[1mpaid" in coloured
    assert coloured != plain.format(record)


def test_the_process_is_named_where_several_share_a_stream() -> None:
    """`show_pid` puts the process id into each line."""
    record = logging.LogRecord("shop", logging.INFO, "", 0, "paid", (), None)
    assert json.loads(LineFormatter(as_json, show_pid=True).format(record))["pid"] == record.process


def test_lines_are_written_while_structlog_is_being_imported(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread: what Python has of it then is an empty module."""
    monkeypatch.setitem(sys.modules, "structlog", ModuleType("structlog"))
    Logger("shop").info("paid")
    (line,) = lines(stream)
    assert line["event"] == "paid"


def test_logging_loads_no_structlog() -> None:
    """Whose modules do not use structlog does not carry it."""
    code = (
        "import sys; from taskyard.shared.logs import *; "
        "log_json(sys.stderr, 'info'); Logger('x').info('y'); print('structlog' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, json.loads(done.stderr)["event"]) == ("False\n", "y")


IMPORTED = """
import logging, sys
from taskyard.shared.logs import Logger, log_json
log_json(sys.stderr, "info")
log_json(sys.stderr, "info")
before = len(sys.meta_path)
import structlog
log = structlog.get_logger("theirs").bind(component="mail")
log.info("one", n=1)
structlog.get_logger("theirs").info("two")
Logger("shop").info("three")
print(before - len(sys.meta_path), structlog.__spec__.origin == structlog.__file__)
"""


def test_structlog_is_adopted_when_it_is_imported() -> None:
    """Also what a module binds at its top, and logs while it is imported."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    one, two, three = map(json.loads, done.stderr.splitlines())
    assert {"event": "one", "component": "mail", "n": 1, "logger": "theirs"}.items() <= one.items()
    assert (two["event"], two["logger"], three["event"]) == ("two", "theirs", "three")
    assert done.stdout == "1 True\n"


def test_a_structlog_that_is_not_installed_is_missed_as_ever() -> None:
    """By `import` itself, however often it is tried, and found when it is there."""
    code = (
        "import importlib, sys; from taskyard.shared.logs import log_json; log_json(sys.stderr, 'info')\n"
        "path, sys.path[:] = sys.path[:], [p for p in sys.path if 'site-packages' not in p]\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        import structlog\n"
        "    except ModuleNotFoundError as error:\n"
        "        print(error)\n"
        "sys.path[:] = path; importlib.invalidate_caches()\n"
        "import structlog; print(structlog.is_configured())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "No module named 'structlog'\n" * 2 + "True\n"
