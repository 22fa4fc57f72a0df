"""`Secret`: a value that is not shown, whatever is done to what holds it."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import traceback
from dataclasses import dataclass

import msgspec
import pytest
import structlog

from taskyard.shared import Secret
from taskyard.shared.invoke import encode_result
from taskyard.shared.logs import configure_logging
from taskyard.shared.settings import Settings

CARD = "4111111111111111"


@dataclass
class Payment:
    card: Secret[str]
    amount: int = 1


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        format,
        ascii,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r}",
        lambda secret: f"{secret!s:>40}",
        lambda secret: f"{secret:.2f}",
        lambda secret: f"{secret:%Y}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: repr([secret, {"card": secret}]),
        lambda secret: repr(Payment(secret)),
        lambda secret: str(dataclasses.asdict(Payment(secret))),
        lambda secret: str(ValueError(secret)),
        lambda secret: json.dumps({"card": secret}, default=repr),
        lambda secret: repr(copy.deepcopy(secret)),
        lambda secret: repr(dir(secret)),
    ],
)
def test_nothing_shows_it(show) -> None:
    """No way to print a secret, or what holds it, prints its value (ZS-21, B-09)."""
    text = show(Secret(CARD))
    assert CARD not in text
    assert "4111" not in text


def test_it_says_that_there_is_one() -> None:
    """What stands for it is no value that anybody could take it for."""
    assert f"{Secret(CARD)}" == "‹secret›"
    assert repr(Secret(7)) == "Secret(‹secret›)"
    assert f"{Secret(7):>10}" == "  ‹secret›"


def test_it_is_revealed_on_purpose() -> None:
    """The one way to its value has a name that a reviewer finds."""
    assert Secret(CARD).reveal() == CARD
    assert not hasattr(Secret(CARD), "__dict__")


def test_it_is_a_value() -> None:
    """Equal secrets are equal, hash alike and are never equal to what they hold."""
    assert Secret(CARD) == Secret(CARD)
    assert Secret(CARD) != Secret("4111")
    assert Secret(CARD) != CARD
    assert len({Secret(CARD), Secret(CARD), CARD}) == 2
    with pytest.raises(TypeError):
        hash(Secret([1]))


def test_it_does_not_change() -> None:
    """Nobody swaps its value, and a copy holds the same."""
    secret = Secret([CARD])
    for change in (lambda: setattr(secret, "value", 1), lambda: delattr(secret, "_Secret__value")):
        with pytest.raises(AttributeError, match="does not change") as caught:
            change()
        assert CARD not in str(caught.value)
    assert copy.copy(secret) is secret
    deep = copy.deepcopy(secret)
    assert deep == secret
    assert deep.reveal() is not secret.reveal()


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        pickle.dumps,
        lambda secret: pickle.dumps(Payment(secret), protocol=2),
        lambda secret: msgspec.json.encode(Payment(secret)),
        lambda secret: json.dumps({"card": secret}),
    ],
)
def test_it_is_written_nowhere(write) -> None:
    """Codecs refuse it, and their errors do not show it: nothing is stored in the clear by accident."""
    with pytest.raises(TypeError) as caught:
        write(Secret(CARD))
    assert CARD not in "".join(traceback.format_exception(caught.value))


def test_a_handler_that_returns_one_returns_nothing() -> None:
    """A result that is a secret is left out of records and replies, with a reason."""
    value, problem = encode_result({"card": Secret(CARD)})
    assert value is None
    assert "no JSON form" in problem
    assert CARD not in problem


@pytest.mark.parametrize("form", ["json", "console"])
def test_logs_do_not_show_it(form, tmp_path, monkeypatch) -> None:
    """A secret logged as a field, in a structure, or in a frame of a logged error stays hidden (B-09)."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    file = tmp_path / "log"
    configured, before = structlog.is_configured(), structlog.get_config()
    try:
        configure_logging(Settings(log_file=file, log_format=form, log_level="debug"))
        log = structlog.get_logger("test")
        log.info("paid", card=Secret(CARD), payment=Payment(Secret(CARD)), all=[Secret(CARD)])
        logging.getLogger("theirs").warning("paid with %s", Secret(CARD))
        _fail_with_clear_text(log)
        for handler in root.handlers:
            handler.close()
            if isinstance(handler, logging.StreamHandler) and isinstance(
                handler.stream, io.TextIOBase
            ):
                handler.stream.close()
    finally:
        structlog.reset_defaults()
        if configured:
            structlog.configure(**before)
    text = file.read_text()
    assert "paid" in text
    assert "ZeroDivisionError" in text
    assert CARD not in text


def _fail_with_clear_text(log) -> None:
    """An error in a frame that holds the clear text: its variables are not logged."""
    card = Secret("4111" + "1" * 12).reveal()
    try:
        _ = len(card) / 0
    except ZeroDivisionError:
        log.exception("not paid")
