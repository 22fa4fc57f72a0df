"""`taskyard parked edit`: other arguments for a parked job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from taskyard.broker_setup.cli.arguments import argument_change, both, checker
from taskyard.broker_setup.cli.output import print_json
from taskyard.broker_setup.cli.parked import DRY_RUN, JSON, QUEUE
from taskyard.broker_setup.editing import edit as edit_job, full_task
from taskyard.broker_setup.moving import Tally
from taskyard.broker_setup.releasing import Order, Releasing
from taskyard.broker_setup.session import operator, run_with_broker
from taskyard.shared.broker import Selection
from taskyard.shared.errors import InvalidArguments
from taskyard.shared.sealing import shown
from taskyard.shared.settings import Settings
from taskyard.shared.signature import encode_json

if TYPE_CHECKING:
    from typing import TextIO

    from taskyard.shared.broker import Broker
    from taskyard.shared.envelope import Envelope


@click.command()
@click.argument("job_id", metavar="ID")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--args", "text", metavar="JSON", help="All arguments anew, as one JSON object.")
@click.option("--args-file", "file", type=click.File(), help="The same from a file; - is stdin.")
@click.option("--unset", multiple=True, metavar="KEY", help="Leave an argument out (repeatable).")
@click.option(
    "--module", "modules", multiple=True, help="Check against the task in this module (repeatable)."
)
@click.option("--release", is_flag=True, help="Release it at once, with its new arguments.")
@DRY_RUN
@QUEUE
@JSON
def edit(
    job_id: str,
    pairs: tuple[str, ...],
    queues: tuple[str, ...],
    *,
    text: str | None,
    file: TextIO | None,
    unset: tuple[str, ...],
    modules: tuple[str, ...],
    release: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change the arguments of a parked job. It stays parked, unless --release is given.

    KEY=VALUE replaces one argument; a VALUE is read as JSON if it is JSON, and is text otherwise.
    The job keeps its id; `parked show` tells what was changed, by whom and when.
    """
    changed = argument_change(pairs, text if file is None else both(text, file), unset)
    check = checker(modules)
    limit = Settings().payload_limit
    by = operator()

    def change(envelope: Envelope) -> dict[str, Any]:
        arguments = changed(envelope)
        body = encode_json(arguments)
        if len(body) > limit:
            problem = f"the encoded arguments are {len(body)} bytes, the limit is {limit}"
            raise InvalidArguments(full_task(envelope), problem)
        check(envelope, body)
        return arguments

    async def act(broker: Broker) -> Envelope:
        lot, envelope = await edit_job(broker, queues, job_id, change, by=by, dry_run=dry_run)
        if release and not dry_run:
            selection = Selection(ids=frozenset({job_id}))
            order = Order(queues=[lot], selection=selection, by=by)
            await Releasing(broker, order, Tally()).run()
        return envelope

    _report(run_with_broker(act), release=release, dry_run=dry_run, as_json=as_json)


def _report(envelope: Envelope, *, release: bool, dry_run: bool, as_json: bool) -> None:
    if as_json:
        document = {
            "would_edit" if dry_run else "id": envelope.id,
            "generation": envelope.generation,
            "args": shown(envelope),
            "would_release" if dry_run else "released": release,
        }
        print_json(document)
    elif dry_run:
        also = " and release it" if release else ""
        click.echo(
            f"would edit {envelope.id}{also}: generation {envelope.generation} would have "
            f"{encode_json(shown(envelope)).decode()}; nothing was changed"
        )
    else:
        state = "released" if release else "still parked; `taskyard parked release` sends it back"
        click.echo(f"edited {envelope.id} (generation {envelope.generation}); {state}")
