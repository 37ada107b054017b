# pyright: strict
"""Tests of handlers: as docs and API write them."""

from datetime import UTC, datetime

from bullpen import Client, JobInfo, SyncClient
from bullpen.testing import Harness, SyncHarness
from tests.typing.accepted.jobs import Deps, emails, welcome
from tests.typing.accepted.payloads import Receipt, Welcome


class FakeMailer:
    fails = 2

    async def send(self, user: int, template: str) -> str:
        self.fails -= 1
        if self.fails >= 0:
            raise ConnectionError
        return f"m-{user}"


async def test_retries_until_sent() -> None:
    async with Harness(emails.with_deps(Deps(FakeMailer())), queues="queues.yaml") as harness:
        await harness.client.enqueue(welcome.job(Welcome(user_id=7)), delay="1h")
        assert await harness.run_until_idle() == 0
        assert harness.jobs(welcome, state="delayed")
        assert await harness.advance("2h") == 3
        assert await harness.run(welcome.job(Welcome(user_id=8))) == Receipt(message_id="m-8")


async def what_is_there(harness: Harness) -> tuple[Client, datetime, list[JobInfo], Receipt, int]:
    receipt = await harness.run(welcome.job(Welcome(user_id=8)))
    return (
        harness.client,
        harness.now,
        harness.jobs("welcome"),
        receipt,
        await harness.run_until_idle(raise_errors=False),
    )


def without_a_loop() -> tuple[SyncClient, Receipt, int]:
    with SyncHarness(emails, now=datetime(2027, 1, 1, tzinfo=UTC), seed=7) as harness:
        return harness.client, harness.run(welcome.job(Welcome(user_id=8))), harness.advance("5m")
