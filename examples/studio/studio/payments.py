"""`payment-processing`: a charge at a gateway that fails now and then, and exactly one entry in the ledger."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from bullpen import Context, Handlers, NonRetryableError, RetryableError
from studio.ledger import Ledger
from studio.payloads import Payment, Receipt, pay
from studio.settings import Settings


@dataclass
class Deps:
    """What a payment needs; tests give others."""

    gateway: httpx.AsyncClient
    ledger: Ledger


@asynccontextmanager
async def deps() -> AsyncGenerator[Deps]:
    """Open the connection pool and the ledger, once for each worker process."""
    settings = Settings.from_environment()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each request
    async with httpx.AsyncClient(base_url=settings.gateway, timeout=2) as gateway:
        yield Deps(gateway=gateway, ledger=Ledger(settings.out / "ledger.sqlite"))


payments = Handlers("payment-processing", lifespan=deps)


@payments.handler(pay)
async def take_payment(ctx: Context[Deps], payment: Payment) -> Receipt:
    """Charge the card and enter it, once.

    An attempt can fail at any line of this function and the next one begins at the top: the gateway knows the
    idempotency key, the ledger the payment's id. Neither charges nor enters twice.
    """
    entered = await asyncio.to_thread(ctx.deps.ledger.find, payment.payment_id)
    if entered is not None:
        return Receipt(entry=entered[0], charge=entered[1])
    answer = await ctx.deps.gateway.post(
        "/charges",
        headers={"Idempotency-Key": payment.payment_id},
        json={"card": payment.card, "amount": str(payment.amount)},
    )
    if answer.status_code == httpx.codes.PAYMENT_REQUIRED:
        raise NonRetryableError(f"payment {payment.payment_id}: the card was declined")
    if answer.is_server_error:
        raise RetryableError(f"payment {payment.payment_id}: the gateway answered {answer.status_code}")
    answer.raise_for_status()
    charge = str(answer.json()["charge"])
    entry = await asyncio.to_thread(ctx.deps.ledger.record, payment.payment_id, charge, payment.amount, ctx.fence)
    return Receipt(entry=entry, charge=charge)
