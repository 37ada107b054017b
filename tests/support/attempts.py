"""Attempts to run without a worker: a job, its services, and executors that are as plain as they can be."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from bullpen import Handlers
from bullpen.handling import execution
from bullpen.handling.contexts import ActiveJob
from bullpen.handling.outcomes import Failed, Outcome, Retried
from bullpen.handling.registrations import Registration
from bullpen.options import Backoff
from bullpen.retry import Policy, Source

T = TypeVar("T")
POLICY = Policy(3, Backoff.fixed("5s"), Source.QUEUE)
NOW = datetime(2027, 1, 1, tzinfo=UTC)


class Services:
    """Keeps the log lines."""

    client: Any = None
    sync_client: Any = None

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, value_json: str) -> None:
        raise NotImplementedError

    def log(self, line: str) -> None:
        self.lines.append(line)


class Executors:
    """Threads as they are; a "process" is a call here, its outcome what the real one would send."""

    async def run_thread(self, call: Callable[[], T], job: ActiveJob) -> T:
        return await asyncio.to_thread(call)

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        return await asyncio.to_thread(execution.run_in_process, registration, job, now=lambda: NOW, rng=lambda: 0.0)


def job_of(data: str = "{}", **fields: Any) -> ActiveJob:
    values: dict[str, Any] = {
        "id": "1",
        "name": "job",
        "queue": "emails",
        "data": data,
        "attempt": 1,
        "retry": POLICY,
        "services": Services(),
    }
    return ActiveJob(**{**values, **fields})


def registered(function: Callable[..., Any], *, middleware: Any = (), **options: Any) -> Registration:
    handlers: Any = Handlers("emails", middleware=middleware)
    registration: Registration = handlers.handler("job", **options)(function).registration()
    return registration


def in_process(function: Callable[..., Any], **options: Any) -> Registration:
    registration = registered(function, **options)
    assert registration.kind == "thread"
    return Registration(
        **{
            name: "process" if name == "kind" else getattr(registration, name)
            for name in Registration.__dataclass_fields__
        }
    )


async def run(registration: Registration, job: ActiveJob | None = None, **options: Any) -> Outcome:
    async with asyncio.timeout(60):
        return await asyncio.create_task(
            execution.run_attempt(
                registration,
                job_of() if job is None else job,
                executors=Executors(),
                now=lambda: NOW,
                rng=lambda: 0.0,
                **options,
            )
        )


def reason_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed | Retried)
    return outcome.failure.reason
