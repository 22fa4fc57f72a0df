"""Jobs in one SQLite file, shared by any number of processes on one host; no server at all.

What survives what: a job whose `send` returned survives the death of any process, and of all of
them at once (`kill -9` included), since its transaction is in the file by then. A power failure or
a crash of the operating system may take the transactions of the last moments (the file stays
sound), unless the URL says `?synchronous=full`: then each transaction is flushed to the disk
first, which costs a flush per group of publishes.

The file must be on a local file system: SQLite's shared memory and the locks that show a death at
once do not work over a network.
"""

from __future__ import annotations

from taskyard.shared.adapters.sql.broker import SqlBroker, connect
from taskyard.shared.adapters.sql.location import Location
from taskyard.shared.adapters.sql.timing import Timing

__all__ = ["Location", "SqlBroker", "Timing", "connect"]
