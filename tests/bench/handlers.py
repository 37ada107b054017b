"""What our worker runs in the benchmarks."""

import asyncio
import time

from pydantic import JsonValue

from bullpen import Handlers

noop = Handlers()


@noop.handler("noop")
async def nothing(data: dict[str, JsonValue]) -> None:
    """Do nothing."""


@noop.handler("stamp")
async def stamp(data: dict[str, JsonValue]) -> int:
    """Say when the handler started, in ns since the epoch."""
    return time.time_ns()


@noop.handler("nap")
async def nap(milliseconds: int) -> list[int]:
    """Sleep; say when that began and ended, in ns since the epoch."""
    began = time.time_ns()
    await asyncio.sleep(milliseconds / 1000)
    return [began, time.time_ns()]
