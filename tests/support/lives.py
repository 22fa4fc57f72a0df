"""Lives of jobs as the lifecycle feed would tell them: for tests of what the ledger makes of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from taskyard.shared.envelope import Envelope
from taskyard.shared.feed import FINISHED, PROGRESSED, STARTED, FeedItem, FeedRecord, Progress
from taskyard.shared.outcomes import ErrorInfo

#: What may happen to a job that a worker has in hands, and to one that is parked.
IN_HAND = ("succeeded", "failed", "cancelled", "retried", "parked", "handed_back", "died")
PARKED = ("released", "edited", "discarded")
ERROR = ErrorInfo(
    type="ValueError", message="no", traceback="at line 1", fingerprint="ValueError:f"
)


@dataclass
class Life:
    """What is said of one job, in the order in which it happened.

    Attributes:
        items: feed items, one fact each.
        state: in which it ends.
        worker_ms: how far the workers' clock is behind the sender's, or before it.
        operator_ms: the same of the operator's.
    """

    job: str
    items: list[FeedItem] = field(default_factory=list)
    state: str = "queued"
    attempt: int = 1
    worker_ms: int = 0
    operator_ms: int = 0
    _now_ms: int = 1_000_000
    _messages: int = 0

    def __post_init__(self) -> None:
        self._envelope = Envelope(
            id=self.job, queue="q", task="q.t", body=b'{"n":1}', enqueued_ms=self._tick()
        )
        self._publish()

    def go_on(self, what: str, *, told: bool) -> bool:
        """Let something happen to it; `told` says whether its start is recorded. False: it cannot."""
        if self.state in {"queued", "running"} and what in IN_HAND:
            self.state = "running"
            if told:
                self._record(STARTED, "")
                self._record(PROGRESSED, "")
            self._end(what)
        elif self.state == "parked" and what in PARKED:
            self._set_free(what)
        else:
            return False
        return True

    def start(self) -> None:
        """Let a worker begin with it."""
        if self.state == "queued":
            self.state = "running"
            self._record(STARTED, "")

    def _end(self, what: str) -> None:
        self.state = "queued" if what in {"retried", "handed_back", "died"} else what
        if what == "died":  # nobody says so: the broker counts, and a worker publishes it again
            self._publish(deliveries=self._envelope.deliveries + 1)
            return
        self._record(FINISHED, what)
        if what == "retried":
            self._publish(attempt=self._envelope.attempt + 1, deliveries=1)
        if what == "handed_back":
            self._publish()

    def _set_free(self, what: str) -> None:
        if what == "discarded":
            self.state = "failed"
            self._record(FINISHED, "failed", self.operator_ms)
            return
        if what == "edited":
            self._publish(generation=self._envelope.generation + 1, deliveries=1)
        else:
            self._publish(attempt=self._envelope.attempt + 1, deliveries=1)
        self.state = "queued"

    def _publish(self, **changes: int) -> None:
        self._messages += 1
        message = f"{self.job}-{self._messages}"
        self._envelope = msgspec.structs.replace(self._envelope, message_id=message, **changes)
        self.attempt = self._envelope.attempt
        self.items.append(FeedItem(envelope=self._envelope))

    def _record(self, event: str, outcome: str, skew_ms: int | None = None) -> None:
        record = FeedRecord.of(
            self._envelope,
            event,
            at_ms=self._tick() + (self.worker_ms if skew_ms is None else skew_ms),
            worker="host:1",
            outcome=outcome,
            error=ERROR if outcome in {"failed", "parked", "retried"} else None,
            run_ms=3 if event != STARTED else None,
            progress=Progress(30, 100, "pages") if event == PROGRESSED else None,
        )
        self.items.append(FeedItem(records=(record,)))

    def _tick(self) -> int:
        self._now_ms += 10
        return self._now_ms


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Draw a life."""
    skews = st.sampled_from([0, -5_000, 5_000])
    life = Life("one", worker_ms=draw(skews), operator_ms=draw(skews))
    for _ in range(draw(st.integers(0, 8))):
        may = PARKED if life.state == "parked" else IN_HAND
        if not life.go_on(draw(st.sampled_from(may)), told=draw(st.booleans())):
            break
    if draw(st.booleans()):
        life.start()
    return life


@st.composite
def tellings(draw: st.DrawFn) -> tuple[Life, list[list[FeedItem]]]:
    """Draw a life, and batches in which the feed may tell it: any order, some of it twice."""
    life = draw(lives())
    again = draw(st.lists(st.sampled_from(life.items), max_size=4))
    told = draw(st.permutations([*life.items, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(told)), max_size=3)))
    edges = [0, *cuts, len(told)]
    return life, [told[a:b] for a, b in itertools.pairwise(edges)]
