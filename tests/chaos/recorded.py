"""Handlers that record what they did in a file: no Redis that is frozen, full or slow can keep them from it.

A line is ``<what> <job id> <process> <run> <monotonic ns>``, written in one `write` to the end of the file named by CHAOS_RECORD.
The clock is the machine's, so lines of different processes can be compared.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from bullpen import Context, Handlers, SyncContext

RECORD = "CHAOS_RECORD"

handlers = Handlers("chaos")


@dataclass(frozen=True)
class Run:
    """One run of one job's handler. `ended` is None where its process did not live to say."""

    job_id: str
    pid: int
    began: float
    ended: float | None
    how: str


def note(what: str, job_id: str, fence: int) -> None:
    """Append a line."""
    line = f"{what} {job_id} {os.getpid()} {fence} {time.monotonic_ns()}\n"
    file = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path: Path) -> dict[str, list[Run]]:
    """Give every run, by job, in the order of their beginnings."""
    open_runs: dict[tuple[str, str, str], float] = {}
    runs = defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        what, job_id, pid, fence, at = line.split()
        key = job_id, pid, fence
        seconds = int(at) / 1e9
        if what == "start":
            assert key not in open_runs, f"{key} began twice"
            open_runs[key] = seconds
        else:
            runs[job_id].append(Run(job_id, int(pid), open_runs.pop(key), seconds, what))
    for (job_id, pid, _), seconds in open_runs.items():
        runs[job_id].append(Run(job_id, int(pid), seconds, None, "unknown"))
    for each in runs.values():
        each.sort(key=lambda run: run.began)
    return dict(runs)


@handlers.handler("nap")
async def nap(ctx: Context[None], seconds: float) -> str:
    """Sleep."""
    note("start", ctx.job.id, ctx.fence)
    how = "cancelled"
    try:
        await asyncio.sleep(seconds)
        how = "done"
    finally:
        note(how, ctx.job.id, ctx.fence)
    return "slept"


@handlers.handler("at")
async def at(ctx: Context[None]) -> int:
    """Give the monotonic ns of the start."""
    started = time.monotonic_ns()
    note("start", ctx.job.id, ctx.fence)
    note("done", ctx.job.id, ctx.fence)
    return started


@handlers.handler("thread")
def thread(ctx: SyncContext[None], seconds: float) -> str:
    """Block a thread."""
    note("start", ctx.job.id, ctx.fence)
    time.sleep(seconds)
    note("done", ctx.job.id, ctx.fence)
    return "slept"


@handlers.handler("match")
async def match(ctx: Context[None], length: int) -> str:
    """Hold the GIL by one catastrophic regular expression: each letter more doubles its time."""
    note("start", ctx.job.id, ctx.fence)
    re.match(r"(a+)+$", "a" * length + "b")
    note("done", ctx.job.id, ctx.fence)
    return "matched"


@handlers.handler("typed")
async def typed(ctx: Context[None], number: int, texts: list[str]) -> int:
    """Take a payload that not every JSON is."""
    note("start", ctx.job.id, ctx.fence)
    note("done", ctx.job.id, ctx.fence)
    return number + len(texts)


@handlers.handler("fail")
async def fail(ctx: Context[None], data: JsonValue) -> None:
    """Fail, whatever comes."""
    note("start", ctx.job.id, ctx.fence)
    note("done", ctx.job.id, ctx.fence)
    raise RuntimeError("as it was asked to")


@handlers.handler("plain")
async def plain(ctx: Context[None], data: JsonValue) -> None:
    """Take anything."""
    note("start", ctx.job.id, ctx.fence)
    note("done", ctx.job.id, ctx.fence)
