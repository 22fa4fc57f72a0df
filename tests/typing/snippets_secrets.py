"""Secret arguments as users write them; both type checkers read this file."""

from __future__ import annotations

from typing import assert_type

from taskyard.producer import Handle, Producer
from taskyard.shared import Job, Queue, Secret

cards = Queue("cards", encrypt=True)


@cards.task
async def verify(order_id: int, card: Secret[str], cvc: Secret[str] | None = None) -> str:
    assert_type(card, Secret[str])
    assert_type(card.reveal(), str)
    shown = f"{card} {card!r}"
    return shown if cvc is None else cvc.reveal()


assert_type(verify.job(order_id=7, card=Secret("4111")), Job[str])
assert_type(verify.job(7, Secret("4111"), Secret("123")).options(encrypt=True), Job[str])
wider: Secret[object] = Secret("4111")

verify.job(order_id=7, card="4111")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
verify.job(order_id=7, card=Secret(4111))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Queue("other", encrypt="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def use_the_producer() -> None:
    with Producer() as producer:
        assert_type(producer.send(verify, 7, Secret("4111")), Handle[str])
        by_name: Job[object] = Job(queue="cards", task="verify", args={"card": Secret("4111")})
        assert_type(producer.send(by_name), Handle[object])
