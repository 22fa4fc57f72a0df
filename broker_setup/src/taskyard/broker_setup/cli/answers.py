"""How commands that ask for something to be done to jobs wait, and print what became of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.shared.cli import NO, TIMED_OUT
from taskyard.shared.duration import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskyard.broker_setup.asking import Asking

WAIT: Final = click.option(
    "--wait",
    "wait",
    metavar="DURATION",
    help="How long to wait for a coordinator's next answer (0: not at all).",
)
_WAIT_S: Final = 15.0
#: Jobs that are named where many are meant.
_SHOWN: Final = 20


def seconds_of(wait: str | None, default_s: float = _WAIT_S) -> float:
    """Return how long to wait, in seconds (ConfigurationError for what is no duration)."""
    return default_s if wait is None else parse_duration(wait)


def show_progress(asking: Asking) -> None:
    """Have a terminal show how many answers have come, where there are many to come."""
    if not sys.stderr.isatty():
        return

    def show() -> None:
        if len(asking.jobs) > _SHOWN:
            done = len(asking.answers)
            end = "\n" if done == len(asking.jobs) else ""
            click.echo(f"\r{done} of {len(asking.jobs)}{end}", nl=False, err=True)

    asking.on_change = show


def report(asking: Asking, refused: Mapping[str, str], *, waited: bool, as_json: bool) -> None:
    """Print what became of each job.

    Args:
        asking: that was done.
        refused: jobs that nothing was asked for, and why not.
        waited: for answers; if not, what is recorded is all that was wanted.
        as_json: print JSON.

    Raises:
        click.exceptions.Exit: with 1 where one was refused, 124 where one has no answer yet.

    """
    answers = asking.answers
    done = {job: answer.text for job, answer in answers.items() if answer.done}
    wrong = {**refused, **{job: a.text for job, a in answers.items() if not a.done}}
    waiting = asking.unanswered
    if as_json:
        print_json({"done": done, "refused": wrong, "recorded": waiting})
    else:
        _print(done, wrong, waiting, waited=waited)
    if wrong:
        raise click.exceptions.Exit(NO)
    if waiting and waited:
        raise click.exceptions.Exit(TIMED_OUT)


def _print(
    done: Mapping[str, str], wrong: Mapping[str, str], waiting: list[str], *, waited: bool
) -> None:
    for job, text in list(done.items())[:_SHOWN]:
        click.echo(f"{job}: {text}")
    if len(done) > _SHOWN:
        click.echo(f"and {len(done) - _SHOWN} more")
    for job, text in wrong.items():
        click.echo(f"{job}: {text}", err=True)
    said = "recorded; no coordinator has answered yet" if waited else "recorded"
    for job in waiting[:_SHOWN]:
        click.echo(f"{job}: {said}", err=waited)
    if len(waiting) > _SHOWN:
        more = " without an answer" if waited else ""
        click.echo(f"and {len(waiting) - _SHOWN} more{more}", err=waited)
