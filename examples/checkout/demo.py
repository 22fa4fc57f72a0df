"""`make demo`: a shop's orders through Taskyard, from a CSV file to shipped parcels and sent mail.

It starts everything itself: the card company, the mail server, the workers; the broker is an
SQLite file, or whatever TASKYARD_BROKER_URL names. It exits 0 only if every order is accounted for.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from examples.checkout.accounts import Accounts, unaccounted
from examples.checkout.neighbours import Neighbours
from examples.checkout.shop import Order, Shop
from taskyard.producer import AsyncProducer
from taskyard.shared import Job
from taskyard.shared.brokers import connect
from taskyard.shared.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskyard.shared.broker import Broker

FOLDER = Path(".taskyard/demo")
MODULE = "examples.checkout.tasks"
#: Countries in the CSV; the shop sends no parcels to the last one.
COUNTRIES = ["DE"] * 150 + ["FR"] * 100 + ["GB"] * 49 + ["AQ"]


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=110, help="give up after so many seconds")
    parser.add_argument("--delay", type=float, default=20, help="longest delay, in seconds")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with ExitStack() as stack:
        neighbours = stack.enter_context(Neighbours(options.seed))
        environment = environment_of(neighbours)
        os.environ.update(environment)
        say(f"broker     {redacted(environment['TASKYARD_BROKER_URL'])}")
        taskyard("broker", "apply", MODULE, "--ledger")
        stack.enter_context(workers(options.workers))
        return asyncio.run(run(options, neighbours))


def environment_of(neighbours: Neighbours) -> dict[str, str]:
    """Return what the demo and its workers find in their environment."""
    here = FOLDER.resolve()
    return {
        "TASKYARD_BROKER_URL": f"sqlite:///{here / 'broker.db'}",
        "TASKYARD_NAMESPACE": "taskyard-demo",
        "TASKYARD_METRICS_PORT": "0",
        "TASKYARD_STATE_DIR": str(here),
        "TASKYARD_APP": "shop",
        **{name: value for name, value in os.environ.items() if name.startswith("TASKYARD_")},
        "SHOP_CARD_COMPANY_URL": neighbours.card_company_url,
        "SHOP_SMTP_PORT": str(neighbours.smtp_port),
        "SHOP_DATABASE": str(here / "shop.db"),
    }


async def run(options: argparse.Namespace, neighbours: Neighbours) -> int:
    """Publish the orders, follow them to their ends, and report."""
    shop = Shop(FOLDER / "shop.db")
    path = FOLDER / "orders.csv"
    write_orders(path, options.orders, options.seed)
    settings = Settings()
    broker = connect(settings.require_broker_url(), settings.broker_options("demo"))
    await broker.open()
    try:
        accounts = Accounts()
        following = asyncio.create_task(follow(broker, accounts), name="follow the feed")
        started = time.monotonic()
        await publish(path, shop, options.delay, options.seed)
        missing = await watch(shop, accounts, following, started + options.limit)
        report(accounts, shop, neighbours, missing, time.monotonic() - started)
        following.cancel()
    finally:
        await broker.close()
    return 1 if missing else 0


async def publish(path: Path, shop: Shop, longest_delay_s: float, seed: int) -> None:
    """Read the CSV and send one job per order, with mixed priorities and delays."""
    rng = random.Random(seed)
    orders = list(read_orders(path))
    shop.place(orders)
    jobs: list[Job[object]] = []
    for order in orders:
        # A web shop needs no worker code: the task is known by its name.
        job: Job[object] = Job(queue="checkout", task="verify_card", args={"order_id": order.id})
        job = job.options(priority=rng.choice(["low", "normal", "normal", "high", "urgent"]))
        if rng.random() < 0.1:
            job = job.options(delay=rng.uniform(0.1, longest_delay_s))
        jobs.append(job)
    started = time.monotonic()
    async with AsyncProducer() as producer:
        ids = await producer.send_many(jobs)
    say(f"published  {len(ids)} orders from {path} in {time.monotonic() - started:.2f} s")


async def follow(broker: Broker, accounts: Accounts) -> None:
    """Read the lifecycle feed, as a ledger would."""
    feed = await broker.feed(credit=1000)
    while items := await feed.take():
        accounts.take(items)
        await feed.ack(items)


async def watch(
    shop: Shop, accounts: Accounts, following: asyncio.Task[None], until: float
) -> dict[int, str]:
    """Show progress until every order has ended, or the time is up; returns what is missing."""
    while True:
        missing = unaccounted(shop.states(), shop.mails(), accounts.parked())
        states = shop.counts()
        line = ", ".join(
            f"{states.get(name, 0)} {name}" for name in ("placed", "shipped", "declined")
        )
        say(f"           {line}, {len(accounts.parked())} parked", live=True)
        settled = not missing and accounts.counts()["open"] == 0
        if settled or time.monotonic() > until or following.done():
            say("")
            return missing
        await asyncio.sleep(0.25)


def report(
    accounts: Accounts,
    shop: Shop,
    neighbours: Neighbours,
    missing: dict[int, str],
    elapsed_s: float,
) -> None:
    """Print what happened."""
    counts = {name: number for name, number in sorted(accounts.counts().items()) if number}
    say("jobs       " + ", ".join(f"{number} {name}" for name, number in counts.items()))
    say(
        "orders     "
        + ", ".join(f"{number} {state}" for state, number in sorted(shop.counts().items()))
    )
    say(
        f"neighbours {neighbours.requests} card requests, {len(neighbours.mails)} mails received "
        f"({len(neighbours.mails) - len(set(neighbours.mails))} twice)"
    )
    say(
        f"speed      {accounts.attempts} attempts in {elapsed_s:.1f} s "
        f"({accounts.attempts / elapsed_s:.0f}/s), wait p50 {accounts.wait_s(0.5):.3f} s, "
        f"p99 {accounts.wait_s(0.99):.3f} s"
    )
    say("parked     (an operator would look, and then `taskyard parked release` or `discard`)")
    taskyard("parked", "list", "--queue", "checkout", "--queue", "mail")
    if missing:
        order, what = next(iter(missing.items()))
        say(f"FAILED     {len(missing)} orders unaccounted for, for example {order}: {what}")
        say(f"           the workers' logs are in {FOLDER}")
    else:
        say("every order is accounted for")


@contextmanager
def workers(number: int) -> Iterator[None]:
    """Run workers as processes of their own, and stop them as a deployment would."""
    logs = [(FOLDER / f"worker-{n}.log").open("w") for n in range(number)]
    command = [sys.executable, "-m", "taskyard.shared.cli", "worker", MODULE, "--queues", "all"]
    running = [subprocess.Popen(command, stdout=log, stderr=log) for log in logs]
    say(f"workers    {number}, logs in {FOLDER}")
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)
        for log in logs:
            log.close()


def taskyard(*arguments: str) -> None:
    """Run one `taskyard` command."""
    subprocess.run([sys.executable, "-m", "taskyard.shared.cli", *arguments], check=True)


def write_orders(path: Path, number: int, seed: int) -> None:
    """Make up a CSV of orders."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "customer", "amount_cents", "country"])
        for order in range(1, number + 1):
            writer.writerow(
                [
                    order,
                    f"customer{order}@example.org",
                    rng.randint(500, 50_000),
                    rng.choice(COUNTRIES),
                ]
            )


def read_orders(path: Path) -> Iterator[Order]:
    """Read the CSV."""
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            yield Order(int(row["id"]), row["customer"], int(row["amount_cents"]), row["country"])


def redacted(url: str) -> str:
    """Return a broker URL without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def say(text: str, *, live: bool = False) -> None:
    """Print a line; a live one is overwritten by the next where somebody watches."""
    if live and not sys.stdout.isatty():
        return
    sys.stdout.write(f"\r\x1b[K{text}" if live else f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
