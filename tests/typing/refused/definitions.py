# pyright: strict
"""Definitions and work that checkers must refuse: each line that ends in an E, and no other."""
# fmt: off

from bullpen import (
    Backoff,
    Context,
    Handlers,
    JobSpec,
    JobType,
    RateLimited,
    Retention,
    RetryableError,
    Snooze,
    SyncContext,
)
from tests.typing.accepted.jobs import Deps, counts, digest, emails, images, resize, thumbnail, welcome
from tests.typing.accepted.payloads import Page, Receipt, Welcome, charge

# The wrong payload.
welcome.job(user_id=7)  # E: call-arg | reportCallIssue
welcome.job(Page(url=""))  # E: arg-type | reportArgumentType
welcome.job()  # E: call-arg | reportCallIssue
welcome.job({"userId": 7})  # E: arg-type | reportArgumentType
thumbnail.job("a", widht=3)  # E: call-arg | reportCallIssue
thumbnail.job(7)  # E: arg-type | reportArgumentType
digest.job(7, "72h")  # E: call-arg | reportCallIssue
resize.job({"height": 3})  # E: typeddict-item, typeddict-unknown-key | reportArgumentType
counts.job(["a"])  # E: list-item | reportArgumentType
charge.job(Page(url=""))  # E: arg-type | reportArgumentType

# The wrong option, or a bare number.
welcome.job(Welcome(user_id=7)).with_options(dealy="5m")  # E: call-arg | reportCallIssue
welcome.job(Welcome(user_id=7)).with_options(delay=5)  # E: arg-type | reportArgumentType
welcome.job(Welcome(user_id=7)).with_options(lifo="yes")  # E: arg-type | reportArgumentType
emails.handler("a", timeout=30)  # E: call-overload | reportArgumentType
emails.handler("a", delay="5m")  # E: call-overload | reportCallIssue
emails.handler("a", executor="fiber")  # E: call-overload | reportArgumentType, reportCallIssue
emails.handler(charge, attempts=5)  # E: call-overload | reportArgumentType
emails.handler()  # E: call-overload | reportCallIssue
JobType("a", data=Welcome, timeout=5)  # E: call-overload | reportArgumentType
JobType("a", queue="emails")  # E: call-overload | reportCallIssue
Backoff.fixed(5)  # E: arg-type | reportArgumentType
Snooze(5)  # E: arg-type | reportArgumentType
RateLimited(10)  # E: arg-type | reportArgumentType
RetryableError("a", delay=30)  # E: arg-type | reportArgumentType
Retention(failed="168h")  # E: arg-type | reportArgumentType

# The wrong type of the result.
wrong_spec: JobSpec[str] = digest.job(7)  # E: assignment | reportAssignmentType
wrong_text: str = welcome.job(Welcome(user_id=7)).read_result("{}")  # E: assignment | reportAssignmentType


# The wrong context: what the decorator gives has no job().
@images.handler("a")
async def wrong_deps(ctx: Context[Deps], path: str) -> str:
    return path


wrong_deps.job("a")  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType


@images.handler("b")
def wrong_sync_deps(ctx: SyncContext[Deps], path: str) -> str:
    return path


wrong_sync_deps.job("a")  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType


@emails.handler("c")
def sync_with_async_context(ctx: Context[Deps], path: str) -> str:
    return path


sync_with_async_context.job("a")  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType


@emails.handler("d")
async def async_with_sync_context(ctx: SyncContext[Deps], path: str) -> str:
    return path


async_with_sync_context.job("a")  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType


# A handler against its contract.
@emails.handler(charge)
async def fits(ctx: Context[Deps], data: Welcome) -> Receipt:
    return Receipt(message_id="")


@emails.handler(charge)  # E: arg-type | reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator
async def wrong_result(ctx: Context[Deps], data: Welcome) -> str:
    return ""


@emails.handler(charge)  # E: arg-type | reportArgumentType, reportCallIssue, reportUntypedFunctionDecorator
async def wrong_payload(ctx: Context[Deps], data: Page) -> Receipt:
    return Receipt(message_id="")


# What a context has, and has not.
@emails.handler("e")
async def misuses(ctx: Context[Deps], data: Welcome) -> None:
    ctx.progress("half")  # E: arg-type | reportArgumentType
    ctx.log("seen", when=object())  # E: arg-type | reportArgumentType
    ctx.deps.postman.send(1)  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType
    ctx.client.enqueue(digest.job(7)).result(timeout="1s")  # E: attr-defined | reportAttributeAccessIssue, reportUnknownMemberType


emails.with_deps(5)  # E: arg-type | reportArgumentType
no_lifespan: Handlers[Deps] = Handlers("a")  # E: assignment | reportAssignmentType
