"""A handler that starts a program and dies before it has ended."""

from __future__ import annotations

import asyncio
import os
import signal

from bullpen import Context, Handlers
from tests.chaos.jobs import note

handlers = Handlers("chaos")


@handlers.handler("litter", attempts=1)
async def litter(ctx: Context[None]) -> None:
    """Leave a program behind, the first time."""
    if ctx.fence == 1:
        left = await asyncio.create_subprocess_exec("sleep", "1")
        note("left", str(left.pid))
        os.kill(os.getpid(), signal.SIGKILL)
