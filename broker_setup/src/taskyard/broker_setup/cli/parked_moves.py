"""`taskyard parked release|discard`: send parked jobs back, or give them up."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click

from taskyard.broker_setup import parking
from taskyard.broker_setup.cli.output import print_json, print_table
from taskyard.broker_setup.cli.parked import DRY_RUN, FINGERPRINT, JSON, QUEUE, TASK, group_document
from taskyard.broker_setup.intents import check_queues
from taskyard.broker_setup.moving import Tally
from taskyard.broker_setup.pace import parse_rate
from taskyard.broker_setup.releasing import (
    CANARY_S,
    Order,
    Releasing,
    Stop,
    discard as discard_all,
    look,
)
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.cli import INTERRUPTED, NO, complain
from taskyard.shared.clock import SystemClock
from taskyard.shared.duration import parse_duration
from taskyard.shared.errors import NotFound, TaskyardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskyard.broker_setup.survey import Survey
    from taskyard.shared.broker import Broker, Selection

#: How often progress is shown, in seconds.
_SHOWN_EVERY_S: Final = 0.2


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that say which parked jobs are meant."""
    for option in (
        JSON,
        DRY_RUN,
        click.option("--all", "everything", is_flag=True, help="All of them."),
        TASK,
        FINGERPRINT,
        click.option("--reason", help="Those parked for this reason."),
        click.option(
            "-n",
            "limit",
            type=click.IntRange(min=1),
            help="At most so many, the longest parked first.",
        ),
        QUEUE,
        click.argument("ids", nargs=-1, metavar="[ID]..."),
    ):
        command = option(command)
    return command


@click.command()
@_which
@click.option("--rate", metavar="N/s", help="At most so many, evenly: 5/s, 100/min, 20/h.")
@click.option("--to", metavar="QUEUE", help="Send them to another queue that exists.")
@click.option(
    "--canary",
    is_flag=True,
    help="Release one of each group first, and the rest only while the group succeeds.",
)
@click.option(
    "--canary-timeout", metavar="TIME", default=f"{CANARY_S:g}s", help="How long a canary may take."
)
def release(
    ids: tuple[str, ...],
    queues: tuple[str, ...],
    *,
    as_json: bool,
    dry_run: bool,
    rate: str | None,
    to: str | None,
    canary: bool,
    canary_timeout: str,
    **which: Any,
) -> None:
    """Send parked jobs back to their queue, in order, each as a new attempt.

    May be interrupted and repeated: nothing is lost. Exit 1 when a group failed again behind its
    canary, 124 when a canary had no outcome in time.
    """
    order = Order(
        queues=queues,
        selection=parking.select(ids, **which),
        by=operator(),
        to=to,
        per_s=None if rate is None else parse_rate(rate),
        canary_s=parse_duration(canary_timeout) if canary else None,
    )
    if dry_run:
        _rehearse(queues, order.selection, "release", to, as_json=as_json)
        return
    tally, stops = Tally(), list[Stop]()

    async def act(broker: Broker) -> None:
        await Releasing(broker, order, tally, stops).run()

    _carry_out(act, tally, "released", stops, as_json=as_json)


@click.command()
@_which
def discard(
    ids: tuple[str, ...],
    queues: tuple[str, ...],
    *,
    as_json: bool,
    dry_run: bool,
    **which: Any,
) -> None:
    """Give parked jobs up: each ends as failed. This cannot be undone."""
    selection, by, tally = parking.select(ids, **which), operator(), Tally()
    if dry_run:
        _rehearse(queues, selection, "discard", None, as_json=as_json)
        return

    async def act(broker: Broker) -> None:
        await discard_all(broker, queues, selection, by=by, tally=tally)

    _carry_out(act, tally, "discarded", [], as_json=as_json)


def _carry_out(
    act: Callable[[Broker], Any],
    tally: Tally,
    verb: str,
    stops: Sequence[Stop],
    *,
    as_json: bool,
) -> None:
    progress = _Progress(tally, verb)
    so_far = "the rest is still parked; run the same command again to go on"
    try:
        run_with_broker(act)
    except KeyboardInterrupt:
        progress.end()
        complain(f"interrupted: {verb} {_jobs(len(tally.done))}; {so_far}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    except TaskyardError:
        progress.end()
        if tally.done:
            complain(f"{verb} {_jobs(len(tally.done))} before this; {so_far}")
        raise
    progress.end()
    for stop in stops:
        complain(str(stop))
    for job_id, why in tally.left.items():
        complain(f"{job_id} stays parked: {why}")
    if as_json:
        document: dict[str, Any] = {verb: tally.done}
        if stops:
            document["stopped"] = [dataclasses.asdict(stop) for stop in stops]
        if tally.left:
            document["left"] = tally.left
        print_json(document)
    else:
        click.echo(f"{verb} {_jobs(len(tally.done))}")
    if stops or tally.left:
        raise click.exceptions.Exit(NO)


def _rehearse(
    queues: Sequence[str], selection: Selection, verb: str, to: str | None, *, as_json: bool
) -> None:
    async def act(broker: Broker) -> Survey:
        if to is not None:
            await check_queues(broker, [to])
        return (await look(broker, queues, selection))[2]

    found = run_with_broker(act)
    if not found.count:
        msg = f"no parked job matches; nothing would be {verb}d"
        raise NotFound(msg)
    rows = [(lot, group) for lot, groups in found.by_lot.items() for group in groups.values()]
    if as_json:
        groups = [{"lot": lot, "to": to or lot, **group_document(group)} for lot, group in rows]
        print_json({f"would_{verb}": found.count, "groups": groups})
        return
    print_table(
        ("queue", "to", "count", "group", "fingerprint", "first ids"),
        [
            [lot, to or (lot if verb == "release" else None), group.count, group.id,
             group.fingerprint, " ".join(group.examples)]
            for lot, group in rows
        ],
    )  # fmt: skip
    click.echo(f"would {verb} {_jobs(found.count)}; nothing was changed")


class _Progress:
    """One line on standard error while jobs are moved, where that is a terminal."""

    def __init__(self, tally: Tally, verb: str) -> None:
        """Follow a tally."""
        self._tally = tally
        self._verb = verb
        self._clock = SystemClock()
        self._shown_s = self._clock.monotonic_s()
        self._width = 0
        if sys.stderr.isatty():
            tally.on_change = self._show
            tally.say = self._say

    def _show(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._shown_s < _SHOWN_EVERY_S:
            return
        self._shown_s = now_s
        text = f"{self._verb} {len(self._tally.done)} of {self._tally.expected}"
        self._width = max(self._width, len(text))
        self._write(f"\r{text:<{self._width}}")

    def _say(self, text: str) -> None:
        self.end()
        self._write(f"{text}\n")

    def end(self) -> None:
        """Leave the line, if there is one."""
        if self._width:
            self._write("\n")
            self._width = 0

    def _write(self, text: str) -> None:
        # A terminal that was closed ends the show, not the release.
        with suppress(OSError):
            click.echo(text, nl=False, err=True)


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"
