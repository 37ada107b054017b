"""A handler that kills its process, beside those that record."""

from __future__ import annotations

import os
import signal

from bullpen import Context, Handlers
from tests.chaos import recorded

recording = recorded.handlers
handlers = Handlers("chaos")


@handlers.handler("die")
async def die(ctx: Context[None]) -> None:
    """Kill the process that runs it."""
    recorded.note("start", ctx.job.id, ctx.fence)
    os.kill(os.getpid(), signal.SIGKILL)
