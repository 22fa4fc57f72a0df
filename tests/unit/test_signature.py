"""Handlers' signatures as the schema of job bodies."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from taskyard.shared import ConfigurationError, Context, InvalidArguments, PayloadTooLarge, Queue
from taskyard.shared.signature import Signature


class Address(BaseModel):
    street: str
    since: date


@dataclass
class Item:
    sku: str
    count: int = 1


class Own(Context[int]): ...


class Colour(Enum):
    RED = "red"


def signature(function) -> Signature:
    return Signature("q.t", function)


def through(function, *args, **kwargs) -> dict[str, object]:
    """What a handler gets for a call, after the wire."""
    found = signature(function)
    return found.decode(found.encode(found.bind(args, kwargs)))


def many(
    ctx: Context,
    order_id: int,
    when: datetime,
    item: Item,
    address: Address,
    colour: Colour,
    price: Decimal,
    key: uuid.UUID,
    wait: timedelta,
    tags: list[str] | None = None,
    kind: Literal["a", "b"] = "a",
    note: str = "none",
) -> None: ...


def test_every_type_arrives_as_it_was_sent() -> None:
    """Models, dataclasses, dates, enums and decimals arrive as what they were (B-28)."""
    sent = {
        "order_id": 7,
        "when": datetime(2030, 1, 31, 12, tzinfo=UTC),
        "item": Item("x", 3),
        "address": Address(street="Main", since=date(2020, 2, 29)),
        "colour": Colour.RED,
        "price": Decimal("9.90"),
        "key": uuid.UUID(int=5),
        "wait": timedelta(minutes=5),
        "tags": ["a"],
        "kind": "b",
    }
    assert through(many, **sent) == sent


def test_the_context_is_not_an_argument() -> None:
    """The context is handed in by the worker, bare, parametrised or under a name of one's own."""

    def bare(ctx: Context, n: int) -> None: ...
    def typed(ctx: Context[int], n: int) -> None: ...
    def own(job: Own, n: int) -> None: ...
    def later(n: int, ctx: str) -> None: ...

    for function in (bare, typed, own):
        assert signature(function).wants_context
        assert signature(function).names == ("n",)
    assert not signature(later).wants_context
    assert signature(later).names == ("n", "ctx")


def test_positional_arguments_get_their_names() -> None:
    """Positional arguments travel by name, the context left out."""

    def handler(ctx: Context, a: int, b: str = "x") -> None: ...

    assert through(handler, 1, "y") == {"a": 1, "b": "y"}
    assert through(handler, 1) == {"a": 1}
    with pytest.raises(InvalidArguments, match="takes 2 arguments, got 3"):
        through(handler, 1, "y", 2)
    with pytest.raises(InvalidArguments, match="got a twice"):
        through(handler, 1, a=2)


def test_defaults_are_the_workers() -> None:
    """What is left out is not sent: the handler's own default applies where it runs."""

    def handler(a: int = 1, b: list[int] | None = None, c: Path = Path("x")) -> None: ...

    assert through(handler) == {}
    assert through(handler, b=None) == {"b": None}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "a"),
        ({"a": "7"}, r"Expected `int`, got `str`.*a"),
        ({"a": 7.5}, "int"),
        ({"a": 1, "c": 2}, "c"),
        ({"a": None}, "null"),
        ({"a": object()}, "object"),
    ],
)
def test_wrong_arguments_are_refused_when_sent(kwargs: dict, words: str) -> None:
    """Missing, unknown, ill-typed and unserialisable arguments are refused, naming the task."""

    def handler(a: int, b: str = "") -> None: ...

    with pytest.raises(InvalidArguments, match=words) as caught:
        through(handler, **kwargs)
    assert caught.value.task == "q.t"


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b"{", b'{"a":"x"}', b"\xff", b'{"a":1,"b":2}'])
def test_a_foreign_body_is_checked_the_same(body: bytes) -> None:
    """Whatever bytes arrive, they either fit the handler or are refused in words."""

    def handler(a: int) -> None: ...

    with pytest.raises(InvalidArguments):
        signature(handler).decode(body)


@given(st.binary(max_size=64))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    """Any bytes are refused by the one error, never by another."""

    def handler(a: int) -> None: ...

    with suppress(InvalidArguments):
        assert isinstance(signature(handler).decode(body)["a"], int)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "other", "x y"]), _json))
def test_open_handlers_take_anything(values: dict[str, object]) -> None:
    """A handler with **kwargs takes every JSON value under any name."""

    def handler(a: Any = None, **rest: Any) -> None: ...

    assert through(handler, **values) == values


def test_open_handlers_still_check_what_they_name() -> None:
    """Named parameters beside **kwargs are checked and converted."""

    def handler(when: date, **rest: Any) -> None: ...

    assert through(handler, when=date(2030, 1, 1), n=1) == {"when": date(2030, 1, 1), "n": 1}
    with pytest.raises(InvalidArguments):
        through(handler, when="soon")


def test_constraints_are_checked() -> None:
    """Constraints of annotations hold when sent."""

    def handler(n: Annotated[int, msgspec.Meta(ge=1)]) -> None: ...

    assert through(handler, n=1) == {"n": 1}
    with pytest.raises(InvalidArguments, match=">= 1"):
        through(handler, n=0)


def test_pydantic_says_what_is_wrong() -> None:
    """A model that refuses its value refuses the job."""

    def handler(address: Address) -> None: ...

    with pytest.raises(InvalidArguments, match="street"):
        signature(handler).decode(b'{"address":{"since":"2020-01-01"}}')


def test_nameless_parameters_are_refused() -> None:
    """Parameters without a name on the wire are refused in words when first used."""

    def positional(a: int, /) -> None: ...
    def star(*a: int) -> None: ...

    for function in (positional, star):
        with pytest.raises(ConfigurationError, match="no name on the wire"):
            signature(function)


def test_unresolvable_annotations_are_refused() -> None:
    """A type that exists only for the checker is named."""

    def handler(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="Missing.*TYPE_CHECKING"):
        signature(handler)


def test_results_come_back_typed() -> None:
    """A result is read as its annotation says; what does not fit comes back as plain JSON."""

    def handler() -> Item: ...  # type: ignore[empty-body]
    def unsaid(): ...

    assert signature(handler).decode_result(b'{"sku":"x","count":2}') == Item("x", 2)
    assert signature(handler).decode_result(b'{"other":1}') == {"other": 1}
    assert signature(unsaid).decode_result(b"[1]") == [1]


def test_too_much_is_an_argument_error() -> None:
    """Callers that catch wrong arguments catch too large ones as well."""
    error = PayloadTooLarge("q.t", 5, 3)
    assert isinstance(error, InvalidArguments)
    assert "TASKYARD_PAYLOAD_LIMIT" in str(error)


def test_tasks_check_their_arguments_when_made() -> None:
    """`task.job(…)` refuses what the handler would (B-28)."""
    queue = Queue("sig-tests")

    @queue.task
    async def handler(ctx: Context, n: int) -> None: ...

    assert handler.job(n=1).body == b'{"n":1}'
    with pytest.raises(InvalidArguments, match=r"sig-tests\.handler"):
        handler.job(n="1")  # type: ignore[arg-type]


def test_a_body_nested_too_deeply_is_invalid() -> None:
    """It is the sender's fault, not the handler's: it parks, and is not tried again."""

    async def takes(x: list[object]) -> None: ...

    signature = Signature("q.t", takes)
    with pytest.raises(InvalidArguments):
        signature.decode(b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}")
