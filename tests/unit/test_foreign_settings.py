"""Any bytes may stand in the environment and in the files that it names: valid, or an error in words."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from taskyard.shared.errors import ConfigurationError
from taskyard.shared.settings import NAMES, PREFIX, Settings

FIELDS = sorted(NAMES)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e999", "1e308", "0", "-0", "٣", "1_000", " 5 ", ""]),
)
URLS = st.builds(
    "{}://{}".format,
    st.sampled_from(["amqp", "amqps", "sqlite", "memory", "http", "postgresql", ""]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
)
# What an environment may hold: any bytes but NUL, which Python shows as surrogates.
ANY = st.binary(max_size=40).map(
    lambda raw: raw.replace(b"\0", b"").decode(errors="surrogateescape")
)
VALUES = st.one_of(NUMBERS, URLS, ANY)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def accepted(values: dict[str, str]) -> Settings | None:
    """Read settings from an environment, and use them as programs do when they start."""
    with environment(values):
        try:
            found = Settings()
            found.key_ring()
            options = found.broker_options("worker")
        except ConfigurationError:
            return None
    for value in (*vars(found).values(), options.heartbeat_s, options.lock_heartbeat_s):
        assert not isinstance(value, float) or math.isfinite(value)
    assert 1 <= round(options.heartbeat_s) <= 0xFFFF, "AMQP has 16 bits for it"
    assert 1 <= round(options.lock_heartbeat_s) <= 0xFFFF
    return found


@settings(max_examples=400, deadline=None)
@given(values=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5))
@example(values={"heartbeat": "inf"})
@example(values={"heartbeat": "70000"})
@example(values={"publish_deadline": "inf"})
@example(values={"grace": "nan"})
@example(values={"encryption_keys": "\udc80:\udcff"})
def test_variables(values: dict[str, str]) -> None:
    """Each combination is taken or refused, and no number is taken that nothing can wait for."""
    accepted({f"{PREFIX}{name.upper()}": value for name, value in values.items()})


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(FIELDS), content=st.binary(max_size=60))
@example(name="broker_url", content=b"\xff\xfe")
def test_files(tmp_path: Path, name: str, content: bytes) -> None:
    """A mounted secret of any bytes; and where there is a folder instead of it."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    accepted({f"{PREFIX}{name.upper()}_FILE": str(file)})
    assert accepted({f"{PREFIX}{name.upper()}_FILE": str(tmp_path)}) is None
