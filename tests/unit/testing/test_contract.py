"""The example of the API's contract, to the letter."""


from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from bullpen import Backoff, Context, Handlers, Payload
from bullpen.testing import Harness

QUEUES = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: emails}
spec:
  worker: {image: registry.example.com/shop:1.0, handlers: [shop.jobs]}
"""


class Welcome(Payload):
    user_id: int
    locale: str = "en"


class Receipt(Payload):
    message_id: str


class Mailer(Protocol):
    async def send(self, user: int, template: str) -> str: ...


@dataclass
class Deps:
    mailer: Mailer


@asynccontextmanager
async def deps() -> AsyncGenerator[Deps]:
    raise AssertionError("the override takes its place")
    yield


emails = Handlers("emails", lifespan=deps)


@emails.handler(
    "welcome", attempts=5, backoff=Backoff.exponential("2s", max_delay="1m", jitter=0.5), timeout="30s"
)
async def welcome(ctx: Context[Deps], data: Welcome) -> Receipt:
    return Receipt(message_id=await ctx.deps.mailer.send(data.user_id, "welcome"))


@pytest.fixture(autouse=True)
def _queues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("queues.yaml").write_text(QUEUES)


# fmt: off
class FakeMailer:
    fails = 2
    async def send(self, user: int, template: str) -> str:
        self.fails -= 1
        if self.fails >= 0: raise ConnectionError
        return f"m-{user}"
async def test_retries_until_sent() -> None:
    async with Harness(emails.with_deps(Deps(FakeMailer())), queues="queues.yaml") as harness:           # the override is typed
        await harness.client.enqueue(welcome.job(Welcome(user_id=7)), delay="1h")     # a real Client, for the code under test
        assert await harness.run_until_idle() == 0 and harness.jobs(welcome, state="delayed")
        assert await harness.advance("2h") == 3                                       # attempts run
        assert await harness.run(welcome.job(Welcome(user_id=8))) == Receipt(message_id="m-8")
