"""The queue's one job: it takes as long as it is told to."""

import asyncio
import os
import time
from pathlib import Path

from bullpen import Handlers, JobType, Payload

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
async def wait(what: Work) -> Done:
    """Wait."""
    began = time.time()
    await asyncio.sleep(what.seconds)
    pod = os.environ.get("BULLPEN_WORKER_NAME", "")
    return Done(pod=pod, version=VERSION, began=began, ended=time.time())
