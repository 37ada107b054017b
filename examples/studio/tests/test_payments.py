"""Payments against the practice gateway: each is charged once and entered once, whatever the gateway does."""

from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from bullpen import NonRetryableError
from bullpen.testing import Harness
from studio.gateway import Gateway
from studio.ledger import Ledger
from studio.payloads import Payment, pay
from studio.payments import Deps, payments


@pytest.fixture
async def gateway() -> AsyncGenerator[Gateway]:
    async with Gateway().serving() as serving:
        yield serving


@pytest.fixture
async def deps(gateway: Gateway, out: Path) -> AsyncGenerator[Deps]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=2) as client:
        yield Deps(gateway=client, ledger=Ledger(out / "ledger.sqlite"))


def payment(number: int, card: str = "4242424242424242") -> Payment:
    return Payment(payment_id=f"order-{number}", card=card, amount=Decimal("19.90"))


async def test_every_payment_is_entered_once_although_attempts_fail(deps: Deps, gateway: Gateway, queues: Path) -> None:
    async with Harness(payments.with_deps(deps), queues=queues) as harness:
        await harness.client.enqueue_many(pay.job(payment(number)) for number in range(30))
        attempts = await harness.advance("5m")
        assert len(harness.jobs(pay, state="completed")) == 30
    assert gateway.failures > 0
    assert attempts == 30 + gateway.failures
    assert deps.ledger.totals() == (30, 30 * Decimal("19.90"))
    assert len(gateway.charges) == 30


async def test_a_declined_card_is_not_tried_again(deps: Deps, queues: Path) -> None:
    async with Harness(payments.with_deps(deps), queues=queues) as harness:
        with pytest.raises(NonRetryableError, match="order-1: the card was declined"):
            await harness.run(pay.job(payment(1, card="4000000000000002")))
        (failed,) = harness.jobs(pay, state="failed")
        assert failed.attempt == failed.attempts - 7
    assert deps.ledger.totals()[0] == 0


async def test_refunds_go_first(deps: Deps, queues: Path) -> None:
    async with Harness(payments.with_deps(deps), queues=queues) as harness:
        for number, level in enumerate(("subscription", "order", "refund")):
            await harness.client.enqueue(pay.job(payment(number)), priority=level)
        waiting = await harness.client.queue("payment-processing").jobs("prioritized")
        assert [info.data["paymentId"] for info in waiting] == ["order-2", "order-1", "order-0"]  # type: ignore[call-overload, index]


async def test_a_gateway_that_is_away_is_waited_for(out: Path, queues: Path) -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:1", timeout=2) as nowhere:
        deps = Deps(gateway=nowhere, ledger=Ledger(out / "ledger.sqlite"))
        async with Harness(payments.with_deps(deps), queues=queues) as harness:
            began = harness.now
            with pytest.raises(httpx.ConnectError):
                await harness.run(pay.job(payment(1)))
            assert 4 < (harness.now - began).total_seconds() < 13  # seven pauses, by the queue's backoff
