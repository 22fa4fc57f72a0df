"""Sending many jobs: what is cut into chunks, how many are under way, what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from taskyard.producer.verdict import DONE
from taskyard.shared.broker import PublishStatus, Receipt
from taskyard.shared.errors import ConfigurationError, PartialSendError, PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from taskyard.shared.envelope import Envelope
    from taskyard.shared.job import Job

#: Jobs in one call to the broker: enough to share its confirms.
CHUNK: Final = 500
#: Bytes of bodies in one call, whatever the number of jobs: all calls under way are confirmed
#: within one deadline, also on a slow line.
CHUNK_BYTES: Final = 512 * 1024
#: Calls under way at once, so that the next is ready while the last is being confirmed.
WINDOW: Final = 8

_GIVEN_UP = (PublishStatus.TIMEOUT, PublishStatus.UNAVAILABLE, PublishStatus.SPOOL_FULL)


def chunks(
    jobs: Iterable[Job[object]], envelope_of: Callable[[Job[Any]], Envelope]
) -> Iterator[list[Envelope]]:
    """Cut jobs into chunks of envelopes, reading no further ahead than one chunk.

    Raises:
        ConfigurationError: a job asks for its result, which no handle could return.

    """
    chunk: list[Envelope] = []
    size_bytes = 0
    for job in jobs:
        if job.resolved.reply:
            raise ConfigurationError(
                f"job {job.id} ({job.task}) asks for its result, and send_many returns no handles: "
                "send such jobs one by one"
            )
        envelope = envelope_of(job)
        chunk.append(envelope)
        size_bytes += len(envelope.body)
        if len(chunk) >= CHUNK or size_bytes >= CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


class Bulk:
    """What has become of the jobs of one `send_many`."""

    def __init__(self, error_of: Callable[[Receipt, Envelope], PublishError | None]) -> None:
        """Judge receipts by `error_of`."""
        self._error_of = error_of
        self.sent: list[str] = []
        self.failed: dict[str, PublishError] = {}
        self.given_up = False
        """Whether the broker stopped answering: what follows is not even tried."""

    def add(self, envelopes: Sequence[Envelope], receipts: Sequence[Receipt]) -> None:
        """Take in the receipts of one chunk."""
        for envelope, receipt in zip(envelopes, receipts, strict=True):
            if receipt.status in DONE:
                self.sent.append(envelope.id)
                continue
            error = self._error_of(receipt, envelope)
            if error is not None:
                self.failed[envelope.id] = error
            self.given_up = self.given_up or receipt.status in _GIVEN_UP

    def skip(self, envelopes: Sequence[Envelope]) -> None:
        """Count a chunk as not sent, after the broker stopped answering."""
        detail = "earlier jobs of the same call were not confirmed in time"
        receipt = Receipt(status=PublishStatus.UNAVAILABLE, detail=detail)
        self.add(envelopes, [receipt] * len(envelopes))

    def ids(self) -> list[str]:
        """Return the ids of the jobs, in order.

        Raises:
            PartialSendError: some were not confirmed.

        """
        if self.failed:
            raise PartialSendError(self.sent, self.failed)
        return self.sent
