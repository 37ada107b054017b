# pyright: strict
"""Definitions, as docs and API write them."""

from collections.abc import AsyncGenerator, Awaitable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypedDict

from pydantic import JsonValue, TypeAdapter

from bullpen import (
    Backoff,
    BaseContext,
    Cancel,
    Context,
    Handlers,
    JobSpec,
    JobType,
    Keep,
    NonRetryableError,
    RateLimited,
    Retention,
    RetryableError,
    RunNext,
    Snooze,
    SyncContext,
)
from tests.typing.accepted.payloads import Page, Receipt, Welcome, charge


class Mailer(Protocol):
    async def send(self, user: int, template: str) -> str: ...


@dataclass
class Deps:
    mailer: Mailer


class Smtp:
    async def send(self, user: int, template: str) -> str:
        return f"{template}-{user}"


@asynccontextmanager
async def deps() -> AsyncGenerator[Deps]:
    yield Deps(mailer=Smtp())


@contextmanager
def plain_deps() -> Generator[Deps]:
    yield Deps(mailer=Smtp())


emails = Handlers("emails", lifespan=deps)


@emails.handler(
    "welcome", attempts=5, backoff=Backoff.exponential("2s", max_delay="1m", jitter=0.5), timeout="30s", priority="high"
)
async def welcome(ctx: Context[Deps], data: Welcome) -> Receipt:
    return Receipt(message_id=await ctx.deps.mailer.send(data.user_id, "welcome"))


@emails.handler("digest", retention=Retention(failed=Keep(age="168h", count=1000)), timeout=timedelta(minutes=5))
async def digest(user_id: int, *, since: str = "24h") -> int:
    return user_id


@emails.handler("legacy")
async def legacy(ctx: Context[Deps], data: dict[str, JsonValue]) -> None:
    ctx.log("seen", keys=list(data))


@emails.fallback
async def other(ctx: Context[Deps], data: JsonValue) -> JsonValue:
    return {"ignored": ctx.job.name}


payments = Handlers("payments", lifespan=plain_deps)


@payments.handler(charge, give_up_on=(PermissionError,))
async def do_charge(ctx: Context[Deps], data: Welcome) -> Receipt:
    ctx.progress(10)
    ctx.progress({"done": 1, "of": [1, 2]})
    match data.locale:
        case "later":
            raise Snooze("15m")
        case "gone":
            raise Cancel("account closed")
        case "no":
            raise NonRetryableError("no such card")
        case "busy":
            raise RateLimited("10s")
        case "flaky":
            raise RetryableError("gateway said 503", delay="30s")
        case _:
            return Receipt(message_id=f"{ctx.job.id}-{ctx.fence}")


images = Handlers("images")


@images.handler("thumbnail")
def thumbnail(ctx: SyncContext[None], path: str, width: int = 200) -> str:
    ctx.raise_if_cancelled()
    return f"{path}-{width}"


@images.handler("sketch", executor="process", backoff_for={OSError: Backoff.fixed("1s")})
def sketch(path: str) -> str:
    return path


class Size(TypedDict):
    width: int


@images.handler("resize", give_up_on=ValueError)
def resize(size: Size) -> list[Page]:
    return [Page(url=str(size["width"]))]


def old_to_new(old: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"page": old}


def wait(attempt: int, error: Exception) -> str | None:
    return None if isinstance(error, OSError) else f"{attempt}s"


async def wait_asynchronously(attempt: int, error: Exception) -> str | None:
    return wait(attempt, error)


@images.handler("page", version=2, upgrade={1: old_to_new}, backoff_for=wait)
async def page(page: Page, size: int) -> Page:
    return page


@images.handler("pages", backoff_for=wait_asynchronously)
async def pages(ctx: Context[None], pages: list[Page]) -> Mapping[str, int]:
    return {each.url: len(each.text) for each in pages}


counts = JobType("counts", data=TypeAdapter(list[int]), attempts=3)


@images.handler(counts)
def count(ctx: SyncContext[None], data: list[int]) -> None:
    ctx.progress(len(data))


async def audited(ctx: BaseContext[Any], call: RunNext) -> object:
    if ctx.cancelled is None and ctx.deadline is not None:
        return await call()
    return {"jobs": len(ctx.jobs), "name": ctx.name}


@contextmanager
def tagged(job: JobSpec[object]) -> Generator[JobSpec[object]]:
    yield job.with_options(priority="low")


plain = Handlers("plain", middleware=[audited])


class FakeMailer:
    async def send(self, user: int, template: str) -> str:
        return f"m-{user}"


for_tests: Handlers[Deps] = emails.with_deps(Deps(FakeMailer()))

# What a definition gives: specs with the type of their result, and the functions themselves.
receipt_spec: JobSpec[Receipt] = welcome.job(Welcome(user_id=7))
number_spec: JobSpec[int] = digest.job(7, since="72h")
text_spec: JobSpec[str] = thumbnail.job("a.png", width=10)
count_spec: JobSpec[None] = counts.job([1, 2])
by_name_spec: JobSpec[JsonValue] = JobSpec.by_name("welcome", {"userId": 7})
any_spec: JobSpec[object] = receipt_spec.with_options(delay="5m")
a_contract: JobType[[Welcome], Receipt] = charge
an_awaitable: Awaitable[int] = digest(7)
a_text: str = sketch("a.png")
