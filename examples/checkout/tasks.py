"""The checkout's tasks: what used to keep customers waiting, now done by workers.

    verify_card ──ok──▶ process_order ──▶ send_email (confirmation)
         └──declined──▶ send_email (card declined)

Start a worker for them with `taskyard worker examples.checkout.tasks --queues all`.
"""

from __future__ import annotations

import smtplib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING

import httpx

from examples.checkout import settings
from examples.checkout.shop import Shop
from taskyard.shared import Context, Fail, Hold, Queue, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Where the shop cannot send parcels; a human decides what happens to such an order.
NO_PARCELS_TO = frozenset({"AQ"})


@dataclass(frozen=True, slots=True)
class Resources:
    """What the handlers of a queue share in one worker process."""

    card_company: httpx.AsyncClient
    shop: Shop


@asynccontextmanager
async def resources() -> AsyncIterator[Resources]:
    """Open them once per worker process; a producer never does."""
    async with httpx.AsyncClient(base_url=settings.CARD_COMPANY_URL, timeout=5) as card_company:
        yield Resources(card_company=card_company, shop=Shop(settings.DATABASE))


checkout = Queue(
    "checkout",
    label="Cards and orders",
    retry=RetryPolicy(attempts=6, first=0.2, factor=2, cap=5),
    ttr=30,
    lifespan=resources,
)
mail = Queue(
    "mail", label="E-mail", retry=RetryPolicy(attempts=5, first=0.5, factor=2, cap=30), ttr=30
)


@checkout.task
async def verify_card(ctx: Context[Resources], order_id: int) -> str:
    """Ask the card company; its 503s and time-outs are retried by the queue's policy."""
    shop = ctx.resources.shop
    order = shop.order(order_id)
    answer = await ctx.resources.card_company.post(
        "/authorise", json={"order": order.id, "amount_cents": order.amount_cents}
    )
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
        shop.decline(order_id)
        await ctx.send(send_email.job(order_id=order_id, to=order.customer, kind="declined"))
        raise Fail(f"card declined for order {order_id}")
    answer.raise_for_status()
    authorisation = str(answer.json()["authorisation"])
    await ctx.send(process_order.job(order_id=order_id, authorisation=authorisation))
    return authorisation


@checkout.task
def process_order(ctx: Context[Resources], order_id: int, authorisation: str) -> None:
    """Ship the order, or hold it where that takes a human."""
    shop = ctx.resources.shop
    order = shop.order(order_id)
    if order.country in NO_PARCELS_TO:
        raise Hold(f"order {order_id}: no parcels to {order.country}")
    shop.ship(order_id, authorisation)
    ctx.send_from_thread(send_email.job(order_id=order_id, to=order.customer, kind="confirmation"))


@mail.task
def send_email(order_id: int, to: str, kind: str) -> None:
    """Send one mail through the shop's SMTP server, unless it went out before."""
    shop = Shop(settings.DATABASE)
    if shop.mail_sent(order_id, kind):
        return
    message = EmailMessage()
    message["From"], message["To"] = "shop@example.org", to
    message["Subject"] = f"Your order {order_id}: {kind}"
    message["X-Shop-Order"], message["X-Shop-Kind"] = str(order_id), kind
    message.set_content(f"Your order {order_id}: {kind}.")
    with smtplib.SMTP(settings.SMTP_HOST, settings.SMTP_PORT, timeout=10) as smtp:
        smtp.send_message(message)
    shop.mark_mail(order_id, kind)
