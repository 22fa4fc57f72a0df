"""Encrypted arguments: sealed when they are sent, bound to their job, opened for its handler."""

from __future__ import annotations

import base64
import re
import traceback
from enum import Enum
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, field_validator

from taskyard.producer.call import envelope_of
from taskyard.shared import (
    ConfigurationError,
    Context,
    InvalidArguments,
    Job,
    PayloadTooLarge,
    Queue,
    RetryPolicy,
    Secret,
    Undecryptable,
)
from taskyard.shared.decide import outcome_of_error
from taskyard.shared.envelope import JSON, Envelope
from taskyard.shared.invoke import bind
from taskyard.shared.keyring import NO_KEYS, KeyRing
from taskyard.shared.sealing import revealed, seal, shown
from taskyard.shared.settings import Settings
from taskyard.shared.signature import Signature
from taskyard.shared.states import ParkReason
from taskyard.shared.wire import ENCRYPTED

CARD = "4111111111111111"
#: Not written out where a traceback would show the line.
NUMBER = int(CARD)
K1, K2 = KeyRing({"k1": b"1" * 32}), KeyRing({"k2": b"2" * 32})
BOTH = KeyRing({"k2": b"2" * 32, "k1": b"1" * 32})
WRONG = KeyRing({"k1": b"9" * 32})

plain = Queue("sealing-plain")
closed = Queue("sealing-closed", encrypt=True)


class Holder(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name == "?":
            raise ValueError(f"{name} is nobody")
        return name


class Kind(Enum):
    VISA = "visa"


@plain.task
async def pay(order_id: int, card: Secret[str], note: str = "") -> None: ...


@plain.task
async def many(
    pin: Secret[int],
    holder: Secret[Holder],
    kind: Secret[Kind] = Secret(Kind.VISA),  # noqa: B008
    cvc: Secret[str] | None = None,
    bare: Annotated[Secret, "any"] = Secret(None),  # noqa: B008
) -> None: ...


@closed.task
async def charge(order_id: int, card: str, kind: Kind = Kind.VISA) -> None: ...


@closed.task
async def both(order_id: int, card: Secret[str]) -> None: ...


@plain.task
async def loose(card: Secret[str], **rest: object) -> None: ...


def sent(job: Job[Any], keys: KeyRing = K1, settings: Settings | None = None) -> Envelope:
    """Return a job as a producer would send it."""
    return envelope_of(
        job, 1, settings=settings or Settings(), app=None, parent=None, address=None, keys=keys
    )


def clear(envelope: Envelope) -> bool:
    """Tell whether the card's number is anywhere in what travels."""
    text = msgspec.json.encode(envelope)
    inner = base64.b64decode(msgspec.json.decode(text)["body"])
    return CARD.encode() in text or CARD.encode() in inner or CARD in repr(envelope)


# ---------------------------------------------------------------- secrets inside a body


def test_a_secret_argument_is_sealed_and_the_rest_is_not() -> None:
    """Operators still see the order; the handler gets its card as a Secret (ZS-21, B-09)."""
    job = pay.job(7, Secret(CARD), note="soon")
    assert CARD not in repr(job)
    assert CARD.encode() not in job.body
    envelope = sent(job)
    assert not clear(envelope)
    assert envelope.content_type == JSON
    assert shown(envelope) == {"order_id": 7, "card": "‹encrypted with key k1›", "note": "soon"}
    assert bind(pay, envelope, K1) == {"order_id": 7, "card": Secret(CARD), "note": "soon"}


def test_a_bare_value_is_taken_too() -> None:
    """What a type checker objects to is sealed all the same, not sent in the clear."""
    envelope = sent(pay.job(7, CARD))  # type: ignore[arg-type]
    assert not clear(envelope)
    assert bind(pay, envelope, K1)["card"] == Secret(CARD)


def test_every_type_can_be_secret() -> None:
    """Models, enums, numbers, optional and untyped ones; what is left out keeps its default."""
    envelope = sent(many.job(pin=Secret(7), holder=Secret(Holder(name="Ann"))))
    assert bind(many, envelope, K1) == {"pin": Secret(7), "holder": Secret(Holder(name="Ann"))}
    job = many.job(
        pin=Secret(7),
        holder=Secret(Holder(name="Ann")),
        kind=Secret(Kind.VISA),
        cvc=None,
        bare=Secret([1, {"a": None}]),
    )
    found = bind(many, sent(job), K1)
    assert found["kind"] == Secret(Kind.VISA)
    assert found["cvc"] is None
    assert found["bare"] == Secret([1, {"a": None}])
    again = bind(many, sent(many.job(Secret(1), Secret(Holder(name="x")), cvc=Secret("123"))), K1)
    assert again["cvc"] == Secret("123")


def test_open_signatures_can_have_secrets() -> None:
    """Beside `**rest` as well; a secret that is not declared one is refused before it is sent."""
    envelope = sent(loose.job(Secret(CARD), more=1))
    assert bind(loose, envelope, K1) == {"card": Secret(CARD), "more": 1}
    with pytest.raises(InvalidArguments, match="declared Secret"):
        loose.job(Secret(CARD), more=Secret(CARD))


def test_secrets_by_name_are_sealed() -> None:
    """A sender without the worker's code says Secret, and is understood (ZP-01)."""
    job: Job[object] = Job(
        queue="sealing-plain", task="pay", args={"order_id": 7, "card": Secret(CARD)}
    )
    envelope = sent(job.options(priority="high"))
    assert not clear(envelope)
    assert bind(pay, envelope, K1)["card"] == Secret(CARD)
    with pytest.raises(InvalidArguments, match="declared Secret"):
        Job(queue="sealing-plain", task="pay", args={"cards": [Secret(CARD)]})
    with pytest.raises(InvalidArguments, match="argument card: its value has no JSON form"):
        Job(queue="sealing-plain", task="pay", args={"card": Secret(object())})


@pytest.mark.parametrize("hint", [list[Secret[str]], dict[str, Secret[str]], "Secret[str] | int"])
def test_a_secret_inside_another_value_is_refused_when_declared(hint: object) -> None:
    """It would not be sealed; that is found when the task is declared, not when a card is sent."""

    def handler(cards: object) -> None: ...

    handler.__annotations__["cards"] = hint
    with pytest.raises(ConfigurationError, match="cards has a Secret inside"):
        Signature("q.t", handler)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pay.job(7, Secret(NUMBER)),  # type: ignore[arg-type]
        lambda: pay.job(str(CARD), CARD),  # type: ignore[arg-type]
        lambda: many.job(Secret(CARD), Secret(Holder(name="Ann"))),  # type: ignore[arg-type]
        lambda: many.job(Secret(1), Secret({"name": {"x": CARD}})),  # type: ignore[arg-type]
        lambda: many.job(Secret(1), Secret(Holder(name="x")), kind=Secret(CARD)),  # type: ignore[arg-type]
        lambda: pay.job(7, Secret(object())),  # type: ignore[arg-type]
        lambda: charge.job(7, NUMBER),  # type: ignore[arg-type]
        lambda: charge.job(7, "x", kind=CARD),  # type: ignore[arg-type]
        lambda: charge.job(7, "x", kind={CARD}),  # type: ignore[arg-type]
    ],
)
def test_refused_arguments_are_not_quoted(make) -> None:
    """Neither msgspec's words nor a model's, nor their tracebacks, show a secret (ZS-21, B-09)."""
    with pytest.raises(InvalidArguments) as caught:
        make()
    assert CARD not in "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        assert CARD not in str(error)
        error = error.__context__


def test_a_task_without_secrets_still_says_what_is_wrong() -> None:
    """Discretion is for what is secret; other errors keep the codec's words."""

    def handler(kind: Kind) -> None: ...

    with pytest.raises(InvalidArguments, match="Invalid enum value 'amex'"):
        Signature("q.t", handler).encode({"kind": "amex"})


def test_one_that_came_in_the_clear_is_taken_and_complained_about(caplog) -> None:
    """Jobs sent before the argument was declared secret still run; the log names it, not its value."""
    envelope = Envelope(
        id="j", queue="sealing-plain", task=pay.name, body=b'{"order_id":7,"card":"4111"}'
    )
    with caplog.at_level("WARNING"):
        assert bind(pay, envelope, K1)["card"] == Secret("4111")
    assert "in the clear" in caplog.text
    # As key=value, or as the fields of a process whose logging was configured by an earlier test.
    assert re.search(r"argument(=|': )'card'", caplog.text)
    assert "4111" not in caplog.text


# ---------------------------------------------------------------- whole bodies


def test_a_queue_can_encrypt_everything() -> None:
    """Neither values nor names of arguments are left; only the key's id and the nonce (ZS-21)."""
    envelope = sent(charge.job(7, CARD))
    assert not clear(envelope)
    assert b"order_id" not in envelope.body
    assert (envelope.content_type, envelope.enc_key) == (ENCRYPTED, "k1")
    assert shown(envelope) == "‹encrypted with key k1›"
    assert bind(charge, envelope, K1) == {"order_id": 7, "card": CARD}


def test_a_secret_in_an_encrypted_body_is_still_a_secret() -> None:
    """`ctx.args` gives the decrypted arguments, the secret one hidden."""
    envelope = sent(both.job(7, Secret(CARD)))
    assert not clear(envelope)
    assert bind(both, envelope, K1) == {"order_id": 7, "card": Secret(CARD)}
    context = Context[object](envelope, Runtime(), None, K1)
    assert context.args == {"order_id": 7, "card": Secret(CARD)}
    assert CARD not in repr(context.args)
    with pytest.raises(Undecryptable):
        _ = Context[object](envelope, Runtime(), None).args
    assert revealed(sent(pay.job(7, Secret(CARD))), K1)["card"] == Secret(CARD)
    assert revealed(sent(pay.job(7, Secret("x"), note='"ty-enc')), K1)["note"] == '"ty-enc'


class Runtime:
    """Runs nothing."""

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


def test_any_job_can_be_encrypted() -> None:
    """By an option that no later one undoes, and by the queue for jobs made by name in its process."""
    job = pay.job(7, Secret("1")).options(encrypt=True)
    assert sent(job).content_type == ENCRYPTED
    assert sent(job.options(priority="low", encrypt=False)).content_type == ENCRYPTED
    named: Job[object] = Job(
        queue="sealing-closed", task="charge", args={"order_id": 7, "card": CARD}
    )
    assert not clear(sent(named))
    assert sent(charge.job(7, CARD).options(encrypt=False)).content_type == ENCRYPTED
    assert sent(pay.job(7, Secret("1"))).content_type == JSON


def test_a_plain_job_in_an_encrypting_queue_runs() -> None:
    """What waited while the queue began to encrypt is not stranded."""
    envelope = Envelope(
        id="j", queue=closed.name, task=charge.name, body=b'{"order_id":7,"card":"x"}'
    )
    assert bind(charge, envelope) == {"order_id": 7, "card": "x"}


@pytest.mark.parametrize("job", [pay.job(7, Secret(CARD)), charge.job(7, CARD)])
def test_without_a_key_nothing_is_sent(job: Job[object]) -> None:
    """The error names the variable, the job and the remedy."""
    with pytest.raises(ConfigurationError, match="TASKYARD_ENCRYPTION_KEYS is not set") as caught:
        sent(job, NO_KEYS)
    assert job.id in str(caught.value)
    assert CARD not in str(caught.value)


def test_the_limit_counts_what_travels() -> None:
    """Sealed arguments are larger than plain ones, and the limit is about what is sent (ZS-18)."""
    limited = Settings(payload_limit=100)
    with pytest.raises(PayloadTooLarge):
        sent(pay.job(7, Secret("x" * 60)), settings=limited)
    with pytest.raises(PayloadTooLarge):
        sent(charge.job(7, "x" * 70), settings=limited)
    sent(charge.job(7, "x" * 30), settings=limited)


def test_sending_again_seals_anew_under_the_same_id() -> None:
    """The same job value is the same job, under a fresh nonce."""
    job = charge.job(7, CARD)
    one, two = sent(job), sent(job)
    assert one.id == two.id
    assert one.enc_nonce != two.enc_nonce
    assert bind(charge, one, K1) == bind(charge, two, K1)


# ---------------------------------------------------------------- keys, and what was changed


@pytest.mark.parametrize("job", [pay.job(7, Secret(CARD)), both.job(7, Secret(CARD))])
def test_old_jobs_run_after_a_rotation(job: Job[object]) -> None:
    """A new first key seals; the old one still opens what it sealed (ZS-21)."""
    assert job.declared is not None
    old, new = sent(job, K1), sent(job, BOTH)
    for envelope in (old, new):
        assert bind(job.declared, envelope, BOTH)["card"] == Secret(CARD)
    assert "k2" in str(shown(new))
    with pytest.raises(Undecryptable, match="no key 'k2'"):
        bind(job.declared, new, K1)


@pytest.mark.parametrize("job", [pay.job(7, Secret(CARD)), charge.job(7, CARD)])
@pytest.mark.parametrize(
    ("keys", "words"),
    [(NO_KEYS, "no key 'k1' (it has none)"), (K2, "(it has k2)"), (WRONG, "does not open it")],
)
def test_without_its_key_a_job_is_parked(job: Job[object], keys: KeyRing, words: str) -> None:
    """Undecryptable, with the key's id and what to do, in one line without a traceback (ZS-21)."""
    assert job.declared is not None
    envelope = sent(job)
    with pytest.raises(Undecryptable) as caught:
        bind(job.declared, envelope, keys)
    outcome = outcome_of_error(caught.value, envelope, RetryPolicy(), now_ms=0, rng=Draw())
    assert outcome.reason is ParkReason.UNDECRYPTABLE  # type: ignore[union-attr]
    assert words in outcome.detail  # type: ignore[union-attr]
    assert "release the job" in outcome.detail  # type: ignore[union-attr]
    other = outcome_of_error(
        Undecryptable("another", "x"), envelope, RetryPolicy(), now_ms=0, rng=Draw()
    )
    assert type(other).__name__ == "Retried"


class Draw:
    def random(self) -> float:
        return 0.5

    def uniform(self, low: float, high: float) -> float:
        return low


@given(field=st.sampled_from(["id", "task", "enc_nonce", "body"]), text=st.text(max_size=20))
def test_a_body_belongs_to_its_job(field: str, text: str) -> None:
    """Moved to another job or task, or changed in any way, it does not open (ZS-21)."""
    envelope = sent(charge.job(7, CARD))
    value: object = text.encode("utf-8", "replace") if field == "body" else text
    if getattr(envelope, field) == value:
        return
    with pytest.raises(Undecryptable):
        bind(charge, msgspec.structs.replace(envelope, **{field: value}), K1)


@given(
    field=st.sampled_from(["id", "task", "argument", "key", "nonce", "data"]),
    text=st.text(max_size=20),
)
def test_a_value_belongs_to_its_argument(field: str, text: str) -> None:
    """The same for a single one; another argument's place is not its own either (ZS-21)."""

    def handler(a: Secret[str], b: Secret[str]) -> None: ...

    task = plain.tasks.get("sealing-plain.pair") or plain.add(handler, name="pair")
    job = task.job(a="1", b="2")
    envelope = sent(job)
    body = msgspec.json.decode(envelope.body)
    if field in ("id", "task"):
        if getattr(envelope, field) == text:
            return
        envelope = msgspec.structs.replace(envelope, **{field: text})
    elif field == "argument":
        body["a"], body["b"] = body["b"], body["a"]
    else:
        body["a"][{"key": "ty-enc", "nonce": "ty-enc-nonce", "data": "ty-enc-data"}[field]] = text
    envelope = msgspec.structs.replace(envelope, body=msgspec.json.encode(body))
    with pytest.raises(Undecryptable):
        bind(task, envelope, K1)


@pytest.mark.parametrize("name", ["ty-enc", "ty-enc-nonce", "ty-enc-data"])
def test_a_sealed_value_without_a_part_is_no_plain_value(name: str) -> None:
    """What is left of it is not handed to a handler as if it were its argument."""
    envelope = sent(many.job(Secret(1), Secret(Holder(name="x")), bare=Secret("any")))
    body = msgspec.json.decode(envelope.body)
    del body["bare"][name]
    with pytest.raises(Undecryptable):
        bind(many, msgspec.structs.replace(envelope, body=msgspec.json.encode(body)), K1)


def test_what_an_encrypted_body_holds_is_not_quoted() -> None:
    """A body that opens but does not fit is invalid, and the reason shows none of it."""
    job: Job[object] = Job(
        queue="sealing-closed", task="charge", args={"order_id": 7, "card": "x", "kind": CARD}
    )
    with pytest.raises(InvalidArguments) as caught:
        bind(charge, sent(job), K1)
    assert CARD not in "".join(traceback.format_exception(caught.value))
    assert "$.kind" in str(caught.value)
    unknown: Job[object] = Job(queue="sealing-closed", task="charge", args={CARD: 1})
    with pytest.raises(InvalidArguments) as caught:
        bind(charge, sent(unknown), K1)
    assert CARD not in str(caught.value)
    missing: Job[object] = Job(queue="sealing-closed", task="charge", args={"order_id": 7})
    with pytest.raises(InvalidArguments, match="missing required field `card`"):
        bind(charge, sent(missing), K1)


def test_line_breaks_do_not_confuse_what_is_bound() -> None:
    """An id with a line break could stand for another id, task and argument: it is refused."""
    job: Job[object] = Job(queue="sealing-closed", task="charge", args={}, id="a\nb")
    with pytest.raises(ConfigurationError, match="line break"):
        sent(job)
    envelope = Envelope(id="a", queue="q", task="q.t")
    with pytest.raises(ConfigurationError, match="line break"):
        seal(envelope, {"x\ny": Secret(b"1")}, K1, whole=False)


@given(st.binary(max_size=60), st.sampled_from([JSON, ENCRYPTED]), st.none() | st.text(max_size=70))
def test_showing_never_fails(body: bytes, content_type: str, key: str | None) -> None:
    """An operator sees foreign bytes in words too."""
    shown(
        Envelope(id="j", queue="q", task="q.t", body=body, content_type=content_type, enc_key=key)
    )
