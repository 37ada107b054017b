"""Handlers that do what a job's data says, as the workers of Node's test driver do; and workers that run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from pydantic import JsonValue

from bullpen import Client, Context, Handlers, NonRetryableError, RateLimited
from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.queue.declaration import meta_fields
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import QueuePolicy
from bullpen_worker import Worker

ROOT = Path(__file__).parents[2]
FAST_RECOVERY = {"lockDuration": "1s", "checkInterval": "300ms"}


@dataclass(frozen=True)
class Start:
    """One start of a job, as its handler saw it."""

    id: str
    name: str
    attempt: int
    fence: int
    at: float
    data: Any


def obedient(starts: list[Start] | None = None, queue: str = "q") -> Handlers[None]:
    """Give handlers of whatever name, which do what ``data["does"]`` says and note each start."""
    handlers = Handlers(queue)
    noted = [] if starts is None else starts

    @handlers.fallback
    async def do(ctx: Context[None], data: JsonValue) -> JsonValue:
        job = ctx.job
        at = asyncio.get_running_loop().time()
        noted.append(Start(job.id, job.name, job.attempt, ctx.fence, at, data))
        wish = data if isinstance(data, dict) else {}
        if wish.get("ms"):
            await asyncio.sleep(wish["ms"] / 1000)
        message = wish.get("message", "it failed")
        match wish.get("does"):
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                await asyncio.Event().wait()
            case "progress":
                ctx.progress(wish["value"])
            case "log":
                ctx.log(message)
            case "fail":
                raise RuntimeError(message)
            case "fail-first" if job.attempt <= wish["times"]:
                raise RuntimeError(message)
            case "give-up":
                raise NonRetryableError(message)
            case "rate-limit" if ctx.fence == 1:
                raise RateLimited("200ms")
        return wish.get("value")

    return handlers


handlers = obedient()
"""For ``bullpen worker --handlers tests.support.does:handlers``."""


@contextlib.asynccontextmanager
async def working(url: str, *registries: Handlers[Any], queue: str = "q", **options: Any) -> AsyncIterator[Worker]:
    """Have a `Worker` run in this process; it must have ended well when this is left."""
    async with Client(url) as client:
        worker = Worker(client, queue=queue, handlers=registries, **options)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            async with asyncio.timeout(60):
                await running


@contextlib.contextmanager
def worker_process(url: str, log: Path, *arguments: str, queue: str = "q") -> Iterator[subprocess.Popen[bytes]]:
    """Have ``bullpen worker`` run with the handlers above; it is ended on leaving, unless it was killed."""
    command = [
        sys.executable, "-m", "bullpen_cli", "worker", "--handlers", "tests.support.does:handlers", "--queue", queue,
        "--redis", url, "--grace", "1s", "--log-format", "json", *arguments,
    ]  # fmt: skip
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ}, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def write_policy(url: str, queue: str = "q", **spec: Any) -> QueuePolicy:
    """Write what a JobQueue with this spec says to clients, workers, and BullMQ itself."""
    keys = QueueKeys("bull", queue)
    model = JobQueueSpec.model_validate({"recovery": FAST_RECOVERY} | spec)
    policy = QueuePolicy.from_spec(model)
    meta: Mapping[str, str] = meta_fields(model)
    with contextlib.closing(redis.Redis.from_url(url)) as raw:
        raw.hset(keys.policy, mapping={"v": "1", "rev": policy.rev, "doc": policy.doc})
        if meta:
            raw.hset(keys.meta, mapping=dict(meta))
    return policy
