"""Jobs as they travel, and the values that follow them."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest
from hypothesis import given, strategies as st

from taskyard.shared import ConfigurationError, bind_values, current_values
from taskyard.shared.envelope import Envelope, mint_id
from taskyard.shared.propagation import (
    LIMIT_BYTES,
    decode_values,
    encode_values,
    replace_values,
)


def test_an_envelope_does_not_change() -> None:
    """An envelope is a value; a changed one is another."""
    envelope = Envelope(id="1", queue="q", task="q.t")
    with pytest.raises(AttributeError):
        envelope.attempt = 2  # type: ignore[misc]
    assert msgspec.structs.replace(envelope, attempt=2).attempt == 2
    assert envelope.attempt == 1


def test_the_due_time_is_the_later_of_two() -> None:
    """A job is due when it was sent unless it says later."""
    assert Envelope(id="1", queue="q", task="q.t").due_ms == 0
    assert Envelope(id="1", queue="q", task="q.t", enqueued_ms=5).due_ms == 5
    assert Envelope(id="1", queue="q", task="q.t", enqueued_ms=5, not_before_ms=9).due_ms == 9


def test_minted_ids_differ_over_threads() -> None:
    """No two threads ever mint the same id."""
    found: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda ids=ids: ids.extend(mint_id() for _ in range(2000)))
        for ids in found
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job_id for ids in found for job_id in ids}) == 8000


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=10), _json, max_size=5))
def test_values_travel(values: dict[str, object]) -> None:
    """What is JSON and small enough arrives as it was (B-08)."""
    try:
        text = encode_values(values)
    except ConfigurationError:
        assert len(msgspec.json.encode(values)) > LIMIT_BYTES
        return
    assert decode_values(text) == values
    assert (text is None) == (not values)


def test_values_are_bounded() -> None:
    """Too much, or what is not JSON, is refused when sent, naming the keys and not the values."""
    with pytest.raises(ConfigurationError, match=r"\['tenant'\].*4096") as caught:
        encode_values({"tenant": "secret" * 1000})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="tenant"):
        encode_values({"tenant": object()})


@given(st.text())
def test_foreign_values_never_break_a_job(text: str) -> None:
    """A header that cannot be read counts as none."""
    assert isinstance(decode_values(text), dict)


def test_values_nest() -> None:
    """An inner block adds to the outer one, and takes it back."""
    assert current_values() == {}
    with bind_values(tenant="acme", user=1):
        with bind_values(user=2):
            assert current_values() == {"tenant": "acme", "user": 2}
        assert current_values() == {"tenant": "acme", "user": 1}
        with replace_values({"locale": "de"}):
            assert current_values() == {"locale": "de"}
    assert current_values() == {}


async def test_values_do_not_leak_between_tasks() -> None:
    """Two tenants interleaved a hundred times each see their own (LQ-13, B-08)."""

    async def tenant(name: str) -> bool:
        with bind_values(tenant=name):
            for _ in range(100):
                await asyncio.sleep(0)
                if current_values() != {"tenant": name}:
                    return False
        return True

    assert all(await asyncio.gather(*(tenant(name) for name in ("a", "b", "c"))))
