"""`taskyard relay`: hand what is left in spools to the broker."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import click
import msgspec

from taskyard.producer.direct import Direct
from taskyard.producer.drain_gate import DrainGate
from taskyard.producer.flusher import Flusher
from taskyard.producer.spool import Spool
from taskyard.producer.verdict import draining
from taskyard.shared.brokers import connect
from taskyard.shared.cli import NO
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.logs import configure_logging, get_logger
from taskyard.shared.settings import Settings
from taskyard.shared.spool import spool_exists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskyard.shared.broker import Broker

_log = get_logger(__name__)

#: Seconds between two looks into spools that are watched.
_LOOK_S: Final = 0.5


class Relayed(msgspec.Struct, kw_only=True):
    """What became of one spool."""

    spool: str
    sent: int
    left: int
    refused: int


@click.command(short_help="Hand what is left in spools to the broker.")
@click.argument("spools", nargs=-1, metavar="[SPOOL]…")
@click.option("--refused", is_flag=True, help="Try those again that the broker has refused.")
@click.option("--watch", is_flag=True, help="Go on until it is stopped.")
@click.option("--max-time", metavar="TIME", help="Give up after so long.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each spool.")
def relay(
    *,
    spools: tuple[str, ...],
    refused: bool,
    watch: bool,
    max_time: str | None,
    as_json: bool,
) -> None:
    """Hand what is left in spools (sqlite:///path, or TASKYARD_SPOOL_URL) to the broker.

    Exit 0 when they are empty; 1 when the broker refused some of it, which stays there; 69 when
    the broker cannot be reached or is drained, with everything still in its place.
    """
    settings = Settings()
    configure_logging(settings)
    urls = spools or ((settings.spool_url,) if settings.spool_url else ())
    if not urls:
        msg = (
            "TASKYARD_SPOOL_URL is not set: name a spool, for example sqlite:///.taskyard/spool.db"
        )
        raise ConfigurationError(msg)
    missing = [url for url in urls if not spool_exists(url)]
    if missing and spools and not watch:
        msg = f"there is no spool {', '.join(missing)}: no such file"
        raise ConfigurationError(msg)
    if not watch:  # where none was made yet, nothing is left
        urls = tuple(url for url in urls if url not in missing)
    limit_s = None if max_time is None else parse_duration(max_time)
    found = asyncio.run(_relay(settings, urls, refused=refused, watch=watch, limit_s=limit_s))
    found += [Relayed(spool=url, sent=0, left=0, refused=0) for url in missing if url not in urls]
    for each in found:
        if as_json:
            click.echo(msgspec.json.encode(each))
        else:
            click.echo(
                f"{each.spool}: {each.sent} handed over, {each.left} left, {each.refused} refused"
            )
    if any(each.left for each in found):
        msg = f"the broker did not take everything within {max_time}; the rest is in its place"
        raise Unavailable(msg)
    if any(each.refused for each in found):
        raise click.exceptions.Exit(NO)


class _Work:
    """One spool and its way to the broker."""

    def __init__(self, url: str, broker: Broker, direct: Direct, *, watch: bool) -> None:
        self._spool = Spool(url, limit_bytes=1)
        self._flusher = Flusher(broker, direct.publish, self._spool)
        self._watch = watch

    async def open(self, deadline_s: float, *, again: bool) -> None:
        await self._spool.open(deadline_s)
        if again:
            await self._spool.retry_refused()

    async def run(self) -> None:
        await self._flusher.run()
        while self._watch:
            await asyncio.sleep(_LOOK_S)
            await self._flusher.run()

    async def end(self) -> Relayed:
        state = await self._spool.state()
        await self._spool.close()
        return Relayed(
            spool=self._spool.url,
            sent=self._flusher.sent,
            left=state.pending,
            refused=state.refused,
        )


async def _relay(
    settings: Settings, urls: Sequence[str], *, refused: bool, watch: bool, limit_s: float | None
) -> list[Relayed]:
    broker = connect(settings.require_broker_url(), settings.broker_options("relay"))
    deadline_s = settings.publish_deadline

    async def is_open(deadline_s: float) -> None:
        del deadline_s

    gate = DrainGate(broker, SystemClock())
    direct = Direct(broker, is_open, SystemClock(), gate=gate)
    works = [_Work(url, broker, direct, watch=watch) for url in urls]
    try:
        for work in works:
            await work.open(deadline_s, again=refused)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await _reach(broker, deadline_s, patient=watch)
                if not watch:
                    await _refuse_drained(broker, deadline_s)
                await asyncio.gather(*(work.run() for work in works))
        return [await work.end() for work in works]
    finally:
        await gate.close()
        await broker.close()


async def _refuse_drained(broker: Broker, deadline_s: float) -> None:
    """Raise Draining rather than wait for its end; who watches waits."""
    drain = await broker.draining(deadline_s=deadline_s)
    if drain is not None:
        raise draining(drain, "what is in the spool stays in its place")


async def _reach(broker: Broker, deadline_s: float, *, patient: bool) -> None:
    """Open the broker; who watches waits for one that is away."""
    while True:
        try:
            await broker.open(deadline_s=deadline_s)
        except Unavailable as error:
            if not patient:
                raise
            _log.warning("the broker is away; everything stays in its place", problem=str(error))
            await asyncio.sleep(_LOOK_S)
        else:
            return
