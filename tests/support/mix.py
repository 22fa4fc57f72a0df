"""A known mix of jobs: of three queues, with ten things that can have become of a job."""

from __future__ import annotations

from typing import Any

import msgspec

from support.told import Told, error
from taskyard.shared.envelope import Envelope

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
APPS = ("accounting", "web", None)
#: Of two processes of one host, of others whose names begin alike, and of a foreign program.
ORIGINS = ("web:7", "web:12", "web-2:7", "web2", None)


def sent(n: int, **fields: Any) -> Envelope:
    """Return the envelope of job `n` of the mix, sent n minutes after the first."""
    arguments = {"order": n % 5, "zip": f"{n % 5}", "who": f"p{n % 6}", "paid": n % 3 == 0}
    if n % 4 == 0:
        arguments |= {"ratio": n / 8, 'odd "name".%': "x"}
    queue = ("mail", "shop", "stock")[n % 3]
    made = Envelope(
        id=f"job-{n:03}",
        queue=queue,
        task=f"{queue}.{('send', 'send_all', 'Send')[n // 3 % 3]}",
        body=msgspec.json.encode(arguments),
        priority=n // 4 % 10,
        app=APPS[n // 2 % 3],
        context=msgspec.json.encode({"tenant": f"t{n % 7}"}).decode() if n % 7 else None,
        parent="job-000" if n % 13 == 1 else None,
        name=f"run {n % 4}*" if n % 2 else None,
        submitted_from=ORIGINS[n % 5],
        enqueued_ms=minutes(n),
    )
    return msgspec.structs.replace(made, **fields)


def minutes(n: int) -> int:
    return NOW_MS - 2 * HOUR_MS + n * 60_000


def one_of_the_mix(n: int) -> Told:
    """Return job `n`, whose last digit says what became of it."""
    told = Told(sent(n))
    match n % 10:
        case 1:
            told = Told(sent(n, not_before_ms=NOW_MS + HOUR_MS + n))
        case 2:
            told.start()
        case 3:
            told.start().end("succeeded", ok="")
        case 4:
            told.end("succeeded")
        case 5:
            told.start().end("failed", detail="error", error=error("shop.Broken", f"no {n}"))
        case 6:
            told.end("failed", detail="logical")
        case 7:
            told.end("parked", detail="exhausted", error=error("shop.Broken_down", f"no {n}"))
        case 8:
            told.set_aside("parked", detail="held")
        case 9:
            told.set_aside("cancelled")
    return told
