"""Feed records that the broker would not take, kept on local disk until it does.

One file a process, so that no two write to one; a file whose process is gone (its lock is free) is
taken over by whoever finds it. The files are bounded: what does not fit is dropped and counted.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from taskyard.shared.envelope import UNREADABLE
from taskyard.shared.feed import FeedRecord
from taskyard.shared.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskyard.shared.metrics import Count

_log = get_logger(__name__)

#: Most bytes kept by one process: some hundred thousand records.
LIMIT_BYTES: Final = 64 * 1024 * 1024
#: What is kept instead of an output once half of that is full: an outcome is small, and one that is
#: lost is a gap in a job's history; a thousand outputs fill the file.
OUTPUT_LEFT_OUT: Final = (
    "[left out: the broker took no records, and those kept here were too large]"
)
#: Records handed to the broker at a time.
CHUNK: Final = 256

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(FeedRecord)


class Backlog:
    """Records on disk, in the order they were added. Belongs to the event loop."""

    def __init__(
        self, folder: Path, *, namespace: str, unrecorded: Count, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Keep records below `folder`, which is made when it is first needed.

        Args:
            folder: of this installation's state.
            namespace: records of another namespace are left alone.
            unrecorded: counts what was dropped.
            limit_bytes: the most that is kept.

        """
        self._folder = folder
        self._namespace = namespace
        self._unrecorded = unrecorded
        self._limit = limit_bytes
        self._file: IO[bytes] | None = None
        self._size = 0
        self._inherited: list[IO[bytes]] = []
        self._warned = False

    @property
    def empty(self) -> bool:
        """Whether nothing is kept, as far as this process knows."""
        return not self._size and not self._inherited

    def claim(self) -> None:
        """Take over the files of processes that are gone."""
        for path in sorted(self._folder.glob(f"unrecorded-{self._namespace}-*.jsonl")):
            if self._file is not None and path.name == Path(self._file.name).name:
                continue
            try:
                file = path.open("r+b")
            except OSError as error:
                _log.warning(
                    "unrecorded outcomes cannot be read", file=str(path), problem=str(error)
                )
                continue
            if _locked(file):
                self._inherited.append(file)
            else:
                file.close()

    def add(self, records: Sequence[FeedRecord]) -> None:
        """Keep records, or count them where they do not fit or cannot be written."""
        lines = _lines(records)
        if self._size + len(lines) > self._limit // 2:
            lines = _lines([_without_output(record) for record in records])
        if self._size + len(lines) > self._limit:
            self._drop(len(records), f"the limit of {self._limit} bytes is reached")
            return
        try:
            file = self._open()
            file.write(lines)
            file.flush()
        except OSError as error:
            self._drop(len(records), str(error))
            return
        self._size += len(lines)

    async def flush(self, record: Callable[[Sequence[FeedRecord]], Awaitable[bool]]) -> bool:
        """Hand everything kept to `record`, the oldest first; False when it refused some.

        A record may be handed over twice when the process ends in between; readers of the feed
        know each run once.
        """
        while self._inherited:
            file = self._inherited[0]
            if not await self._send(file, record):
                return False
            self._inherited.pop(0)
            self._remove(file)
        if self._file is None or not self._size:
            return True
        end = self._size
        if not await self._send(self._file, record):
            return False
        if self._size == end:  # nothing was added meanwhile
            self._file.truncate(0)
            self._size = 0
        return True

    def close(self) -> None:
        """Let go of the files; what is in them is for the next process."""
        for file in self._inherited:
            file.close()
        self._inherited.clear()
        if self._file is not None and not self._size:
            self._remove(self._file)
        elif self._file is not None:
            self._file.close()
        self._file = None

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = 0
            while self._file is None:
                path = self._folder / f"unrecorded-{self._namespace}-{os.getpid()}-{number}.jsonl"
                file = path.open("a+b")
                number += 1
                if _locked(file) and not os.fstat(file.fileno()).st_size:
                    self._file = file
                else:
                    file.close()
        return self._file

    async def _send(
        self, file: IO[bytes], record: Callable[[Sequence[FeedRecord]], Awaitable[bool]]
    ) -> bool:
        position = 0
        while True:
            file.seek(position)
            lines = [
                line for line in (file.readline() for _ in range(CHUNK)) if line.endswith(b"\n")
            ]
            if not lines:
                return True
            records = self._decode(lines)
            if records and not await record(records):
                return False
            position += sum(map(len, lines))

    def _decode(self, lines: list[bytes]) -> list[FeedRecord]:
        records: list[FeedRecord] = []
        for line in lines:
            try:
                records.append(_decoder.decode(line))
            except UNREADABLE:
                self._drop(1, "a line on disk is not a record")
        return records

    def _remove(self, file: IO[bytes]) -> None:
        with suppress(OSError):
            Path(file.name).unlink()
        file.close()

    def _drop(self, number: int, why: str) -> None:
        self._unrecorded.add(number)
        if not self._warned:
            self._warned = True
            _log.error("outcomes are lost to the feed; jobs are not affected", problem=why)


def _lines(records: Sequence[FeedRecord]) -> bytes:
    return b"".join(_encoder.encode(record) + b"\n" for record in records)


def _without_output(record: FeedRecord) -> FeedRecord:
    if len(record.output) <= len(OUTPUT_LEFT_OUT):
        return record
    return msgspec.structs.replace(record, output=OUTPUT_LEFT_OUT)


def _locked(file: IO[bytes]) -> bool:
    """Take a file's lock, which the operating system frees when its process ends."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
