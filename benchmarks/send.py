"""Send N no-op jobs with `send_many` and print jobs per second."""

from __future__ import annotations

import sys
import time

from benchmarks.noop import noop
from taskyard.producer import Producer


def main() -> None:
    """Send, the last confirm included."""
    number = int(sys.argv[1])
    with Producer() as producer:
        producer.send_many([])  # connected before the clock starts, as the bare client is
        started = time.perf_counter()
        producer.send_many(noop.job(n=n) for n in range(number))
        print(number / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
