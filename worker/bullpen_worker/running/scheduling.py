"""Writes the next run of a job scheduler, when the job that it produced was fetched."""

import asyncio
import logging
import time
from typing import Final

from bullpen.errors import BullpenError
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import Eval
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen_worker.running.lines import Line, passing

_PAUSE_S: Final = 0.5

logger = logging.getLogger("bullpen.worker")


async def advance(keys: QueueKeys, job: StoredJob, line: Line) -> None:
    """Write the run after this job's; tried until Redis answers. What cannot be written is logged: the job runs all the same.

    Written twice (the job was recovered, a reply was lost), the later one does nothing.
    """
    from bullpen.queue import schedules  # noqa: PLC0415 - few queues have any

    try:
        operation = schedules.advance(keys, job, time.time_ns() // 1_000_000)
        for call in operation.commands() if operation is not None else ():
            if isinstance(call, Eval):
                await _send(call, line)
    except BullpenError as error:
        logger.error("scheduler %s: its next run cannot be written: %s", job.scheduler_id, error)  # noqa: TRY400


async def _send(call: Eval, line: Line) -> None:
    while True:
        try:
            await line.link.eval(call.script, call.keys, (*call.args, *call.more_args), repeatable=True)
        except ConnectionLost:
            continue  # the link waits for the next connection
        except ReplyError as error:
            if not passing(error):
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return
