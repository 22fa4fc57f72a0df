"""`taskyard doctor`: is everything in place, and what to do where it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.examine import Finding, examine
from taskyard.shared.cli import NO

if TYPE_CHECKING:
    from collections.abc import Sequence

_MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


@click.command()
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(modules: tuple[str, ...], *, as_json: bool) -> None:
    """Look at settings, broker, topology, control log and queues. Exit 1 when something is wrong."""
    findings = asyncio.run(examine(modules))
    _print(findings, as_json=as_json)
    if any(finding.level == "error" for finding in findings):
        raise click.exceptions.Exit(NO)


def _print(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([{"level": f.level, "what": f.what, "advice": f.advice} for f in findings])
        return
    for finding in findings:
        click.echo(f"{_MARKS[finding.level]}  {finding.what}")
        if finding.advice:
            click.echo(f"         -> {finding.advice}")
