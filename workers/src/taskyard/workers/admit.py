"""What to do with a delivery before it runs: a pure decision over what it carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from taskyard.shared.changes import Standing
from taskyard.shared.decide import ttr_s_of
from taskyard.shared.keyring import NO_KEYS, VARIABLE
from taskyard.shared.states import ParkReason
from taskyard.shared.wire import ENCRYPTED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.shared.broker import Delivery
    from taskyard.shared.control import ControlRecord
    from taskyard.shared.envelope import Envelope
    from taskyard.shared.keyring import KeyRing
    from taskyard.workers.handler import Handler


@dataclass(frozen=True, slots=True)
class Run:
    """Execute it.

    Attributes:
        charged: deliveries that are added to those that its envelope counts.
        isolated: it is a suspect, and runs alone in a child process.

    """

    charged: int = 0
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Recount:
    """Publish a copy with one delivery more, because the broker does not count them itself."""


@dataclass(frozen=True, slots=True)
class Mint:
    """Publish a copy that carries its new id, so that a redelivery is the same job."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Publish it again: it is not due yet."""


@dataclass(frozen=True, slots=True)
class Park:
    """Set it aside; it cannot run."""

    reason: ParkReason
    detail: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give it up, as `by` asked."""

    by: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Give it up unrun: another publish of the job counts."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Publish it again, due a little later: the job is about to be changed.

    Attributes:
        asked_ms: since when, in milliseconds since the epoch; None: just now.

    """

    asked_ms: int | None = None


Admission = Run | Recount | Mint | Requeue | Park | Cancel | Drop | Defer

#: The delivery of one attempt from which on it is a suspect: two workers have died with it.
SUSPECT_FROM: Final = 3

RUN: Final = Run()
RECOUNT: Final = Recount()
MINT: Final = Mint()
REQUEUE: Final = Requeue()
DROP: Final = Drop()
DEFER: Final = Defer()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a lane holds deliveries against.

    Attributes:
        queue: its name.
        handlers: what this worker can run, by short and by full name.
        max_deliveries: deliveries of one attempt; the next one parks it.
        max_ttr_s: the longest time to run that the broker bears, in seconds; None: any.
        keys: for encrypted arguments.

    """

    queue: str
    handlers: Mapping[str, Handler]
    max_deliveries: int
    max_ttr_s: float | None = None
    keys: KeyRing = NO_KEYS


def admit(
    delivery: Delivery,
    rules: Rules,
    *,
    now_ms: int,
    losses: int = 0,
    cancelled: ControlRecord | None = None,
    standing: Standing = Standing.CURRENT,
) -> Admission:
    """Decide what happens to a delivery.

    Args:
        delivery: as it came.
        rules: of its lane.
        now_ms: the broker's instant, in milliseconds since the epoch.
        losses: how often this process lost the connection while it held this very publish; those
            redeliveries are nobody's fault.
        cancelled: the operator's intent to cancel the job, if there is one.
        standing: whether this publish counts, after the changes of the job that were asked for.

    """
    envelope = delivery.envelope
    if delivery.defect is not None or cancelled is not None or standing is not Standing.CURRENT:
        return _set_aside(delivery, cancelled, standing)
    handler = rules.handlers.get(envelope.task)
    if handler is None:
        return Park(ParkReason.UNKNOWN_TASK, _unknown(envelope, rules))
    if envelope.content_type == ENCRYPTED and envelope.enc_key not in rules.keys:
        return Park(ParkReason.UNDECRYPTABLE, _keyless(envelope, rules))
    if envelope.expires_ms is not None and envelope.expires_ms <= now_ms:
        return Park(ParkReason.EXPIRED, "it was not started before its expiry")
    if delivery.anonymous:
        return MINT
    if envelope.not_before_ms is not None and envelope.not_before_ms > now_ms:
        return REQUEUE
    if envelope.ttr_ms is not None or delivery.redelivered or envelope.deliveries > 1:
        return _run(delivery, handler, rules, losses)
    return RUN


def _set_aside(
    delivery: Delivery, cancelled: ControlRecord | None, standing: Standing
) -> Admission:
    if delivery.defect is not None:
        return Park(ParkReason.INVALID, delivery.defect)
    if standing is Standing.SUPERSEDED:
        return DROP  # the publish that counts is the one that is cancelled
    return DEFER if cancelled is None else Cancel(cancelled.by)


def _keyless(envelope: Envelope, rules: Rules) -> str:
    return (
        f"its arguments are encrypted: {rules.keys.missing(envelope.enc_key or '')}; when the key is "
        f"in {VARIABLE} and the workers are started again, release the job"
    )


def _run(delivery: Delivery, handler: Handler, rules: Rules, losses: int) -> Admission:
    ttr_s = ttr_s_of(delivery.envelope, handler.task)
    if rules.max_ttr_s is not None and ttr_s > rules.max_ttr_s:
        return Park(ParkReason.INVALID, _too_long(ttr_s, rules.max_ttr_s))
    return _count(delivery, rules, losses)


def _count(delivery: Delivery, rules: Rules, losses: int) -> Admission:
    """Charge a delivery that came before, or park it when it came too often."""
    counts = delivery.failures is not None
    earlier = delivery.failures if delivery.failures is not None else int(delivery.redelivered)
    charged = max(earlier - losses, 0)
    deliveries = delivery.envelope.deliveries + charged
    if deliveries > rules.max_deliveries:
        return Park(
            ParkReason.POISON,
            f"{deliveries - 1} deliveries of attempt {delivery.envelope.attempt} ended with the death of "
            f"their worker (max_deliveries is {rules.max_deliveries})",
        )
    if charged and not counts:
        return RECOUNT
    if not charged and deliveries < SUSPECT_FROM:
        return RUN
    return Run(charged, isolated=deliveries >= SUSPECT_FROM)


def _unknown(envelope: Envelope, rules: Rules) -> str:
    known = (
        ", ".join(sorted({handler.task.short_name for handler in rules.handlers.values()}))
        or "none"
    )
    return (
        f"queue {rules.queue} has no task {envelope.task!r} in this worker (known: {known}); "
        "deploy the task, then release the job"
    )


def _too_long(ttr_s: float, max_ttr_s: float) -> str:
    return (
        f"its time to run of {ttr_s:g} s is longer than the {max_ttr_s:g} s that the broker bears"
    )
