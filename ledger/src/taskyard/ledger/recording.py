"""What is left of feed items under the recording policies of their queues.

The feed is not the place where that can be decided alone: a delayed job is in it whatever its queue
is, and programs that know no policy publish and record, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from taskyard.shared.envelope import JSON, UNREADABLE, Envelope
from taskyard.shared.feed import FeedItem
from taskyard.shared.recording import EVERYTHING, Policy, is_owed, tells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from taskyard.shared.feed import FeedRecord
    from taskyard.shared.recording import RecordedArguments

#: Content types of a job in the ledger whose arguments are not all there. It cannot be sent again.
REDACTED: Final = "application/vnd.taskyard.redacted"
OMITTED: Final = "application/vnd.taskyard.omitted"

#: What is shown in their place.
_NO_VALUE: Final = "‹redacted›"
_NO_ARGUMENTS: Final = "‹not recorded›"

_json: Final = msgspec.json.Encoder()
_names: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class NotRecorded(msgspec.ValidationError):
    """What was asked of a job cannot be sent again: its arguments are not in the ledger."""


def recorded(
    items: Iterable[FeedItem], policy_of: Callable[[str], Policy]
) -> tuple[list[FeedItem], int]:
    """Return what of some items is for the ledger, and how many envelopes and records are not."""
    kept: list[FeedItem] = []
    left_out = 0
    for item in items:
        if item.envelope is not None:
            found = _of_envelope(item.envelope, policy_of(item.envelope.queue))
            kept += [item if found is item.envelope else FeedItem(envelope=found)] if found else []
            left_out += found is None
        if item.records:
            told, jobs = _of_records(item.records, policy_of)
            left_out += len(item.records) - len(told)
            kept += jobs
            if told:
                kept.append(FeedItem(records=tuple(told)))
        elif item.envelope is None:
            kept.append(item)
    return kept, left_out


def arguments_of(envelope: Envelope) -> RecordedArguments:
    """Return what of a job's arguments its envelope in the ledger holds."""
    if envelope.content_type == REDACTED:
        return "redacted"
    return "none" if envelope.content_type == OMITTED else "full"


def _of_envelope(envelope: Envelope, policy: Policy) -> Envelope | None:
    if policy is EVERYTHING:
        return envelope
    # It waits for its first attempt. Whether that goes well, nobody would tell.
    if not tells(policy.jobs, envelope) and not is_owed(policy, envelope):
        return None
    return without_arguments(envelope, policy.arguments)


def _of_records(
    records: Sequence[FeedRecord], policy_of: Callable[[str], Policy]
) -> tuple[list[FeedRecord], list[FeedItem]]:
    """Return the records that are told, and as items the jobs that they carry."""
    told: list[FeedRecord] = []
    jobs: list[FeedItem] = []
    for record in records:
        policy = policy_of(record.queue)
        if not tells(policy.jobs, record, record.outcome) and not record.owed:
            continue
        told.append(record)
        if record.request is not None:
            jobs.append(FeedItem(envelope=without_arguments(record.request, policy.arguments)))
    return told, jobs


def without_arguments(envelope: Envelope, arguments: RecordedArguments) -> Envelope:
    """Return a job with as much of its arguments as is to be kept, marked where that is not all."""
    if arguments == "full":
        return envelope
    content_type, shown = OMITTED, _json.encode(_NO_ARGUMENTS)
    if arguments == "redacted" and envelope.content_type == JSON:
        try:
            names: dict[str, Any] = dict.fromkeys(_names.decode(envelope.body), _NO_VALUE)
        except UNREADABLE:
            pass  # what has no names is left out as a whole
        else:
            content_type, shown = REDACTED, _json.encode(names)
    return msgspec.structs.replace(
        envelope, body=shown, content_type=content_type, enc_key=None, enc_nonce=None
    )
