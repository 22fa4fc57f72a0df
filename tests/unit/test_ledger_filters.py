"""How people write which jobs they mean, and what PostgreSQL is asked for it."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects import postgresql

from taskyard.ledger.conditions import conditions
from taskyard.ledger.filters import (
    ACTIVE,
    Argument,
    Filter,
    listed,
    parse_argument,
    parse_details,
    parse_instant,
    parse_priorities,
    parse_sort,
    parse_states,
)
from taskyard.shared.errors import ConfigurationError
from taskyard.shared.states import State

NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00Z
HOUR_MS = 3_600_000


def test_options_are_repeated_or_comma_lists():
    """ZS-62: multi-valued by name, not by bits."""
    assert listed(["mail, shop", "shop", "", "stock,"]) == ("mail", "shop", "stock")
    assert parse_states(["failed,parked"]) == (State.FAILED, State.PARKED)
    assert parse_details(["logical", "held"]) == ("logical", "held")


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_states, "held"), (parse_details, "failed"), (parse_priorities, "higher")],
)
def test_a_name_that_is_none_is_named(parse, text):
    """A typing error is told, not taken for a filter that nothing passes."""
    with pytest.raises(ConfigurationError, match=text):
        parse([f"{text},x"])


def test_what_is_not_over_is_active():
    """ZP-15: without the final states."""
    assert State.PARKED in ACTIVE
    assert not {State.SUCCEEDED, State.FAILED, State.CANCELLED} & set(ACTIVE)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("7", ((7, 7),)),
        ("high", ((7, 7),)),
        ("4-9", ((4, 9),)),
        ("low,normal-urgent", ((1, 1), (4, 9))),
    ],
)
def test_priorities_are_read(text, ranges):
    """ZS-62, ZP-32: a number, a name, a range."""
    assert parse_priorities([text]) == ranges


@pytest.mark.parametrize("text", ["9-4", "10", "-", "4-", "1-2-3"])
def test_wrong_priorities_are_refused(text):
    """What is none, and a range that holds nothing."""
    with pytest.raises(ConfigurationError, match="priority"):
        parse_priorities([text])


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("n=7", Argument(name="n", text="7", plain=7)),
        ("n=1.50", Argument(name="n", text="1.50", plain=1.5)),
        ("paid=true", Argument(name="paid", text="true", plain=True)),
        ("who=ann", Argument(name="who", text="ann")),
        ("who=", Argument(name="who", text="")),
        ('zip="01234"', Argument(name="zip", text="01234")),
        ("sum=1+1=2", Argument(name="sum", text="1+1=2")),
        ("what=null", Argument(name="what", text="null")),
        ("what=[1]", Argument(name="what", text="[1]")),
        ("n=9007199254740993", Argument(name="n", text="9007199254740993")),
        ("n=1e999", Argument(name="n", text="1e999")),
        ('n="\\u0000"', Argument(name="n", text="\N{REPLACEMENT CHARACTER}")),
    ],
)
def test_arguments_are_read(text, argument):
    """Issue 6, 5: by argument; a number or a truth value is also looked for as a text."""
    found = parse_argument(text)
    assert found == argument
    assert type(found.plain) is type(argument.plain)


@pytest.mark.parametrize("text", ["n", "=7", ""])
def test_what_is_no_argument_is_refused(text):
    """It needs a name and a sign of equality."""
    with pytest.raises(ConfigurationError, match="NAME=VALUE"):
        parse_argument(text)


@pytest.mark.parametrize(
    ("text", "instant_ms"),
    [
        ("1h", NOW_MS - HOUR_MS),
        ("90", NOW_MS - 90_000),
        ("+2h", NOW_MS + 2 * HOUR_MS),
        ("2027-01-15T08:00Z", NOW_MS),
        ("2027-01-15T10:00+02:00", NOW_MS),
        ("2027-01-15T08:00:00.250", NOW_MS + 250),
        ("2027-01-15", NOW_MS - 8 * HOUR_MS),
    ],
)
def test_instants_are_read(text, instant_ms):
    """ZS-62: from a date, or how long ago; without an offset it is UTC, as it is printed."""
    assert parse_instant(text, NOW_MS) == instant_ms


@pytest.mark.parametrize("text", ["", "yesterday", "2027-13-01", "1 fortnight", "-1h", "+"])
def test_wrong_instants_are_refused(text):
    """With examples of right ones."""
    with pytest.raises(ConfigurationError, match="90m"):
        parse_instant(text, NOW_MS)


def test_an_order_is_read():
    """ZS-62: `--sort -ended`."""
    assert parse_sort("due") == ("due", False)
    assert parse_sort("-ended") == ("ended", True)
    for text in ("end_time", "--due", ""):
        with pytest.raises(ConfigurationError, match="created"):
            parse_sort(text)


def asked(**fields) -> str:
    """Return what PostgreSQL is asked for a filter, with its values in it."""
    (condition,) = conditions(Filter(**fields), now_ms=5, postgresql=True)
    dialect = postgresql.asyncpg.dialect()
    return str(condition.compile(dialect=dialect)) + str(condition.compile(dialect=dialect).params)


def test_no_filter_asks_for_nothing():
    """All jobs are meant."""
    assert conditions(Filter(), now_ms=5, postgresql=True) == []


def test_arguments_are_asked_for_so_that_the_index_answers():
    """Issue 6: 1 000 000 rows by any two filters; containment is what a GIN index knows."""
    text = asked(arguments=(parse_argument("n=7"),))
    assert text.count("jobs.facets @> ") == 2
    assert """{"n":"7"}""" in text
    assert """{"n":7}""" in text


def test_patterns_mean_what_they_say():
    """`_` and `%` are in names; only `*` and `?` stand for something else."""
    assert r"""'a\\_b.%'""" in asked(tasks=("a_b.*",))
    assert r"""'50\\% at f\\_g%'""" in asked(fingerprints=("50% at f_g",))
    assert "LIKE" not in asked(tasks=("a_b.c",))
