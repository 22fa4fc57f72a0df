"""What a worker and a child process say to each other: MessagePack in frames that begin with a length.

Nothing is pickled: exceptions and results are turned into plain values where they come about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from taskyard.shared.envelope import UNREADABLE, Envelope
from taskyard.shared.errors import TaskyardError
from taskyard.shared.job import ResolvedOptions
from taskyard.shared.outcomes import Cancelled, Failed, HandedBack, Parked, Retried, Succeeded

#: Bytes of the length that begins a frame.
HEAD: Final = 4
#: Longest message, in bytes: brokers take no larger jobs, and nonsense is found before it is read.
LIMIT_BYTES: Final = 256 * 1024 * 1024


class BrokenFrame(TaskyardError):
    """What came over the channel is no message; the child is killed."""


# from the worker


class Setup(msgspec.Struct, frozen=True, tag=True):
    """What to become: imports `modules` with `path`, and serves `queue`.

    Attributes:
        queue: the queue's name.
        modules: import paths of what declares it.
        path: where modules are looked for.
        log_level: the least level of log lines, as a number.
        max_rss_bytes: resident memory above which it will be replaced; None: never measured.
        keys: for encrypted arguments, by id, the sealing one first. They come this way because
            command lines and environments can be read by others, and because the worker may have
            been given them in code.

    """

    queue: str
    modules: tuple[str, ...]
    path: tuple[str, ...]
    log_level: int
    max_rss_bytes: int | None = None
    keys: dict[str, bytes] = {}

    def __repr__(self) -> str:
        """Show no key."""
        return f"Setup({self.queue}, {', '.join(self.modules)})"


class Order(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run this job.

    Attributes:
        envelope: the job, its task named in full.
        ttr_s: its time to run, in seconds.
        now_ms: the broker's instant.
        deadline_ms: when the time to run ends, unless it is touched.
        max_ttr_s: how long the broker lets a worker hold a job, in seconds; None: any time.
        held_s: how long the worker has held it already.

    """

    envelope: Envelope
    ttr_s: float
    now_ms: int
    deadline_ms: int
    max_ttr_s: float | None = None
    held_s: float = 0.0


class DeadlineSoon(msgspec.Struct, frozen=True, tag=True):
    """The instant that the handler asked for has come."""


class Sent(msgspec.Struct, frozen=True, tag=True):
    """Send request `number` is confirmed."""

    number: int
    job_id: str


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The job of call request `number` succeeded; its value as JSON, None for none."""

    number: int
    value: bytes | None


class NotSent(msgspec.Struct, frozen=True, tag=True):
    """Request `number` failed with an error of this class (of `taskyard.shared.errors`)."""

    number: int
    error: str
    text: str
    fields: dict[str, str | int | float]


class End(msgspec.Struct, frozen=True, tag=True):
    """Leave the lifespan and exit."""


# from the child


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The lifespan is entered; orders may come."""


class Broken(msgspec.Struct, frozen=True, tag=True):
    """It cannot be set up, and ends."""

    problem: str


class Touched(msgspec.Struct, frozen=True, tag=True):
    """The handler restarted its time to run, at its own length or at `ttr_s`."""

    ttr_s: float | None


class Progressed(msgspec.Struct, frozen=True, tag=True):
    """The handler reported progress."""

    done: float
    total: float | None
    note: str


class SoonWanted(msgspec.Struct, frozen=True, tag=True):
    """The handler wants `DeadlineSoon`, `before_s` before its deadline."""

    before_s: float | None


class Send(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The handler sends a job; answered by `Sent` or `NotSent` of the same number."""

    number: int
    id: str
    queue: str
    task: str
    body: bytes
    options: ResolvedOptions
    secrets: dict[str, bytes] | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The handler sends a job and waits for its end; answered by `Returned` or `NotSent`.

    Attributes:
        sent: the job, with the number of the request.
        timeout_s: how long to wait, in seconds; None: as long as the time to run.

    """

    sent: Send
    timeout_s: float | None = None


class Logged(msgspec.Struct, frozen=True, tag=True):
    """A log line, as JSON text."""

    line: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job's outcome; a returned value travels beside it, as JSON.

    Attributes:
        outcome: without the value.
        value: the value as JSON; None for none.
        problem: why there is none, in words.
        rss_bytes: resident memory after the job; 0 when it is not measured.
        left: processes that the job started and that still run.

    """

    outcome: Succeeded | Retried | Parked | Failed | Cancelled | HandedBack
    value: bytes | None = None
    problem: str = ""
    rss_bytes: int = 0
    left: list[int] = []


ToChild = Setup | Order | DeadlineSoon | Sent | Returned | NotSent | End
ToWorker = Ready | Broken | Touched | Progressed | SoonWanted | Send | Call | Logged | Ended

# Foreign headers and values may hold what MessagePack does not know; they travel as text.
_encoder = msgspec.msgpack.Encoder(enc_hook=repr)
_to_child: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


def encode(message: ToChild | ToWorker) -> bytes:
    """Return a message in its frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEAD, "big") + body


def decode_to_child(body: bytes | bytearray) -> ToChild:
    """Read a message of the worker (BrokenFrame when it is none)."""
    try:
        return _to_child.decode(body)
    except UNREADABLE as error:
        raise BrokenFrame(str(error)) from error


def decode_to_worker(body: bytes | bytearray) -> ToWorker:
    """Read a message of a child (BrokenFrame when it is none)."""
    try:
        return _to_worker.decode(body)
    except UNREADABLE as error:
        raise BrokenFrame(str(error)) from error


class Frames:
    """Cuts what a socket gives, in pieces of any size, into the bodies of messages."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Begin at the beginning of a frame; none may be longer than `limit_bytes`."""
        self._limit_bytes = limit_bytes
        self._data = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take the next piece and return the bodies that it completes.

        Raises:
            BrokenFrame: a frame is longer than any message.

        """
        self._data += data
        start, end = 0, len(self._data)
        try:
            while end - start >= HEAD:
                size = int.from_bytes(self._data[start : start + HEAD], "big")
                if size > self._limit_bytes:
                    raise BrokenFrame(f"a frame of {size} bytes; the limit is {self._limit_bytes}")
                if end - start - HEAD < size:
                    break
                body = bytes(self._data[start + HEAD : start + HEAD + size])
                start += HEAD + size
                yield body
        finally:
            del self._data[:start]
