"""Messages made ready: nothing that is published can cost the connection, or wait for ever."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.shared.adapters.amqp import wire
from taskyard.shared.adapters.amqp.fields import Properties, properties, read_properties
from taskyard.shared.adapters.amqp.names import Names
from taskyard.shared.adapters.amqp.outgoing import Maker, Raw
from taskyard.shared.clock import SystemClock
from taskyard.shared.envelope import Envelope, Parking
from taskyard.shared.outcomes import ErrorInfo


@pytest.fixture
def make() -> Maker:
    return Maker(Names("taskyard"), SystemClock())


def envelope(**fields: Any) -> Envelope:
    return Envelope(id="1", queue="q", task="q.t", **fields)


def parking(size: int) -> Parking:
    error = ErrorInfo(type="E", message="m" * size, traceback="t" * size)
    return Parking(reason="exhausted", detail="d" * size, error=error)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_parked_job_fits_into_a_frame(make: Maker, size: int) -> None:
    """Its texts are cut where a frame cannot hold them; what fits is kept as it is."""
    item = make.parked(envelope(parking=parking(size)))
    assert not item.problem
    assert len(item.properties) <= make.room_bytes
    found = wire.decode(read_properties(item.properties, 0), b"{}", queue="q").envelope.parking
    assert found is not None
    assert found.detail == "d" * min(size, 500)


def test_other_programs_headers_yield_where_they_do_not_fit(make: Maker) -> None:
    """A job whose foreign headers fill a frame can still be retried and parked."""
    extra = {"x-large": "x" * (make.room_bytes - 10), "ty-next": "kept"}
    for item in (
        make.job(envelope(extra=extra, attempt=2)),
        make.parked(envelope(extra=extra, parking=parking(200_000))),
        make.job(envelope(extra={f"x-{n}": "x" * 400 for n in range(1000)})),
    ):
        assert not item.problem
        assert len(item.properties) <= make.room_bytes
    kept = read_properties(make.job(envelope(extra=extra)).properties, 0).headers
    assert kept is not None
    assert kept["ty-next"] == "kept"


def test_what_cannot_be_made_smaller_is_refused(make: Maker) -> None:
    """It never reaches the broker, which would close the connection."""
    make.room_bytes = 4096 - 20
    assert "frame_max" in make.job(envelope(context="c" * 4096)).problem
    own = properties(headers={"h": "h" * 5000})
    assert "frame_max" in make.raw(Raw("e", "k", own, b"")).problem


@pytest.mark.parametrize("name", ["correlation_id", "content_type", "app_id", "type", "message_id"])
def test_a_name_that_is_no_utf8_can_be_published_again(make: Maker, name: str) -> None:
    """Replacing invalid bytes makes a text longer than AMQP allows; it is cut."""
    found = Properties()
    setattr(found, name, "\ufffd" * 255)
    delivery = wire.decode(found, b"{}", queue="q")
    assert not make.job(delivery.envelope).problem
    if name == "type":
        assert "255 bytes" in (delivery.defect or "")


def test_headers_that_fit_are_not_said_to_be_left_out(capsys) -> None:
    """A job with headers of others that fit is written whole, without a warning."""
    maker = Maker(Names("taskyard"), SystemClock())
    item = maker.job(Envelope(id="1", queue="q", task="q.t", extra={"ty-released": "x" * 900}))
    assert b"ty-released" in item.properties
    assert "left out" not in "".join(capsys.readouterr())
