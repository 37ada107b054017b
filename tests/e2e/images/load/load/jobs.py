"""The queue's one job: it takes as long as it is told to, and writes into its log when it runs."""

import asyncio
import os
import time
from pathlib import Path

from bullpen import Context, Handlers, JobType, Payload

VERSION = Path("/app/VERSION").read_text().strip()
QUEUE = os.environ.get("LOAD_QUEUE", "load")


class Work(Payload):
    """How long."""

    seconds: float


class Done(Payload):
    """Where and when, by the clock of the node."""

    pod: str
    version: str
    began: float
    ended: float


work = JobType("work", queue=QUEUE, data=Work, result=Done)
handlers = Handlers(QUEUE)


@handlers.handler(work)
async def wait(ctx: Context[None], what: Work) -> Done:
    """Wait. Each run has two lines in the job's log, whatever becomes of it: two at the same time would be seen there."""
    pod = os.environ.get("BULLPEN_WORKER_NAME", "")
    began = time.time()
    ctx.log(f"began {began} {pod}")
    try:
        await asyncio.sleep(what.seconds)
    finally:
        ctx.log(f"ended {time.time()} {pod}")
    return Done(pod=pod, version=VERSION, began=began, ended=time.time())
