"""Keeps the garbage collector from stopping the operator for long.

Python's collector looks through all objects now and then, and with a thousand JobQueues in the cache that takes 150 to 250 ms in
which no queue is heard to wake. Nearly all of them stay for hours. So every minute what is garbage is collected, and what
is not is set aside (`gc.freeze`): then each look goes through what came since, and takes a few milliseconds. What is set
aside is freed by its reference count all the same; only cycles that become garbage later are not, and there are next to
none of those among the dicts that the API server sent.
"""

import asyncio
import gc
from typing import Final

EVERY_SECONDS: Final = 60.0


async def keep_short() -> None:
    """Do so until cancelled. For a process that does nothing else: the collector is one for all of it."""
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        gc.collect()
        gc.freeze()
