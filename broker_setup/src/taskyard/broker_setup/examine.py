"""Examine an installation, step by step; each step says what it saw and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from taskyard.broker_setup.intents import read_intents
from taskyard.broker_setup.recording import policy_by
from taskyard.broker_setup.session import open_broker
from taskyard.broker_setup.setup import describe, make_plan, specs_of
from taskyard.shared.broker import ORPHANS, SetupSpec
from taskyard.shared.catalogue import load_queues
from taskyard.shared.control import ALL_QUEUES, ControlUnavailable
from taskyard.shared.errors import ConfigurationError, Unavailable
from taskyard.shared.intents import slots_of
from taskyard.shared.settings import Settings
from taskyard.shared.spool import connect_spool, prepare, spool_exists, survey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskyard.shared.broker import Broker
    from taskyard.shared.intents import Intents

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing seen: how bad it is, what it is, and what to do about it."""

    level: Level
    what: str
    advice: str = ""


async def examine(modules: Sequence[str]) -> list[Finding]:
    """Look at everything that can be seen from here, the queues of `modules` included."""
    try:
        settings = Settings()
        settings.require_broker_url()
        declared = load_queues(modules) if modules else {}
    except ConfigurationError as error:
        return [Finding("error", "settings", str(error))]
    spool = await _spool(settings)
    try:
        async with open_broker(settings) as broker:
            specs = specs_of(declared, policy_by(settings))
            return [
                Finding("ok", f"broker answers; namespace {settings.namespace}"),
                *_state(broker),
                *(await _topology(broker, SetupSpec(queues=tuple(specs.values())), modules)),
                *(await _control(broker)),
                *(await _queues(broker, sorted(declared))),
                *spool,
            ]
    except Unavailable as error:
        advice = "start it, or correct TASKYARD_BROKER_URL"
        return [Finding("error", f"broker: {error}", advice), *spool]
    except ConfigurationError as error:
        return [Finding("error", f"broker: {error}"), *spool]


async def _spool(settings: Settings) -> list[Finding]:
    """Look into the spool that the environment names, if it does."""
    if settings.spool_url is None:
        return []
    try:
        if not spool_exists(settings.spool_url):
            return [Finding("ok", "the spool is empty: its file was not needed yet")]
        store = connect_spool(settings.spool_url)
        await store.open()
    except (ConfigurationError, Unavailable) as error:
        return [Finding("error", f"spool: {error}", "mend it: sends fail while the broker is away")]
    try:
        await prepare(store)
        state = await survey(store)
        now_ms = store.now_ms()
    finally:
        await store.close()
    found: list[Finding] = []
    if state.pending:
        age_s = (now_ms - (state.oldest_ms or now_ms)) // 1000
        what = f"spool: {state.pending} jobs wait for the broker, the oldest for {age_s} s"
        advice = "a running producer sends them; if none is left: taskyard relay"
        found.append(Finding("warning", what, advice))
    if state.refused:
        what = f"spool: {state.refused} jobs were refused by the broker"
        found.append(Finding("error", what, "create their queues, then taskyard relay --refused"))
    return found or [Finding("ok", "the spool is empty")]


def _state(broker: Broker) -> list[Finding]:
    found: list[Finding] = []
    if broker.blocked:
        found.append(
            Finding(
                "error",
                "the broker refuses publishes",
                "free its memory or disk; workers go on draining",
            )
        )
    for name in ("priorities", "delay", "feed", "control", "lock", "replies", "lease"):
        capability = getattr(broker.capabilities, name)
        if not capability:
            found.append(Finding("warning", f"{name}: {capability.note}"))
    return found


async def _topology(broker: Broker, spec: SetupSpec, modules: Sequence[str]) -> list[Finding]:
    made = await make_plan(broker, spec)
    command = f"taskyard broker apply {' '.join(modules)}".rstrip()
    if made.differences:
        return [
            Finding("error", describe(action), "it cannot be changed in place")
            for action in made.differences
        ]
    if made.missing:
        return [Finding("error", f"{len(made.missing)} parts of the topology are missing", command)]
    if made.recording:
        return [Finding("error", str(change), command) for change in made.recording]
    if not made.verified:
        return [
            Finding(
                "warning",
                "bindings unverified",
                "let TASKYARD_MANAGEMENT_URL reach the management API",
            )
        ]
    return [Finding("ok", "topology is as it should be")]


async def _control(broker: Broker) -> list[Finding]:
    try:
        intents = await read_intents(broker)
    except ControlUnavailable as error:
        return [
            Finding(
                "error",
                f"control log: {error}",
                "workers keep their last state and start no new queue",
            )
        ]
    return [Finding("ok", "control log can be read"), *_intended(intents, broker.now_ms())]


def _intended(intents: Intents, now_ms: int) -> Iterator[Finding]:
    """Say what operators hold back or have changed, and how to undo it."""
    for queue, record in intents.paused(now_ms).items():
        every = queue == ALL_QUEUES
        what = "every queue" if every else f"queue {queue}"
        command = f"taskyard queues resume {'--all' if every else queue}"
        yield Finding("warning", f"{what} is paused by {record.by}", command)
    drain = intents.drain(now_ms)
    if drain is not None:
        what = f"producers send nothing new: drained by {drain.by}"
        yield Finding("warning", what, "taskyard drain off")
    for queue, record in intents.concurrencies().items():
        what = f"queue {queue}: {slots_of(record)} slots in each worker process, by {record.by}"
        yield Finding("ok", what, f"taskyard queues concurrency {queue} --reset")


async def _queues(broker: Broker, names: Sequence[str]) -> list[Finding]:
    try:
        names = names or await broker.queues()
    except ConfigurationError as error:
        return [Finding("warning", f"queues: {error}")]
    found: list[Finding] = []
    for name, stats in (await broker.stats([*names, ORPHANS])).items():
        if stats.ready and stats.consumers == 0:
            found.append(
                Finding(
                    "error",
                    f"queue {name}: {stats.ready} jobs and no consumer",
                    "start a worker for it",
                )
            )
        if stats.parked:
            found.append(
                Finding(
                    "warning",
                    f"queue {name}: {stats.parked} parked",
                    f"taskyard parked list -q {name}",
                )
            )
    return found or [Finding("ok", f"{len(names)} queues, none stuck")]
