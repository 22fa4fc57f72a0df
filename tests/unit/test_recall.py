"""What a worker remembers of deliveries that its connection took with it."""

from __future__ import annotations

import msgspec

from taskyard.shared.broker import Delivery, Settlement
from taskyard.shared.envelope import Envelope
from taskyard.workers.recall import Recall

JOB = Envelope(id="1", task="work.do", queue="work", message_id="m")


def test_a_recount_that_was_lost_is_still_owed() -> None:
    """Another worker died with the job, and this one lost its connection while it counted that: the
    job is counted again, and not run as if nobody had had it.
    """
    recall = Recall()
    counted = msgspec.structs.replace(JOB, deliveries=2)
    recall.lost(Settlement(delivery=Delivery(envelope=JOB, redelivered=True), copies=(counted,)))
    again = Delivery(envelope=JOB, redelivered=True)
    assert recall.settle_again(again) is None
    assert recall.losses(again) == 0
