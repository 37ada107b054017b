"""Handlers that run in processes: a module that such a process can import by name."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

from bullpen.durations import Duration
from bullpen.errors import Cancel, NonRetryableError, RateLimited, Snooze
from bullpen.handling.contexts import SyncContext
from bullpen.handling.handlers import Handlers

RECORD = "BULLPEN_TEST_RECORD"
"""The environment variable with the file that lifespans write to."""


def record(what: str) -> None:
    """Note what happened, with the process it happened in."""
    with Path(os.environ[RECORD]).open("a") as file:
        file.write(f"{what} {os.getpid()}\n")


@dataclass
class Deps:
    """What the async lifespan gives."""

    loop: asyncio.AbstractEventLoop
    entered_in: int


@contextlib.asynccontextmanager
async def deps() -> AsyncGenerator[Deps]:
    async with asyncio.timeout(None):  # entered and left in one task, or it raises
        record("entered")
        yield Deps(asyncio.get_running_loop(), threading.get_ident())
        record("left")


@contextlib.contextmanager
def plain_deps() -> Generator[int]:
    record("plain entered")
    yield threading.get_ident()
    record("plain left")


def later(attempt: int, error: Exception) -> Duration:
    return f"{attempt}m"


async def later_async(attempt: int, error: Exception) -> Duration:
    await asyncio.sleep(0)
    return "7m"


heavy = Handlers("heavy")
with_deps = Handlers("heavy", lifespan=deps)
with_plain_deps = Handlers("heavy", lifespan=plain_deps)


@heavy.handler("square", executor="process")
def square(number: int) -> int:
    return number * number


@heavy.handler("pid", executor="process")
def pid() -> tuple[int, bool, str]:
    return os.getpid(), threading.current_thread() is threading.main_thread(), sys.path[0]


@heavy.handler("chatter", executor="process")
def chatter(ctx: SyncContext[None], lines: int) -> str:
    print("\x00\x00\x00\x05hello on stdout")
    print("hello on stderr", file=sys.stderr)
    for number in range(lines):
        ctx.progress(number)
        ctx.log("line", number=number)
    return f"{ctx.job.id} {ctx.job.name} {ctx.job.attempt} {ctx.fence} {ctx.job.data} {ctx.cancelled}"


@heavy.handler("report", executor="process")
def report(ctx: SyncContext[None], gate: str) -> None:
    ctx.progress({"at": "half"})
    while not Path(gate).exists():
        time.sleep(0.005)


@heavy.handler("chatter then wait", executor="process")
def chatter_then_wait(ctx: SyncContext[None], lines: int) -> None:
    for number in range(lines):
        ctx.progress(number)
    threading.Event().wait()


@heavy.handler("fail", executor="process", give_up_on=(PermissionError,), backoff_for=later)
def fail(how: str) -> None:
    match how:
        case "retried":
            raise ValueError("not this time")
        case "given up":
            raise PermissionError("never")
        case "for good":
            raise NonRetryableError("no such card")
        case "snooze":
            raise Snooze("15m")
        case "cancel":
            raise Cancel("account closed")
        case "limited":
            raise RateLimited("10s")
        case "exit":
            sys.exit(3)


@heavy.handler("fail later", executor="process", backoff_for=later_async)
def fail_later() -> None:
    raise ValueError("not this time")


@heavy.handler("die", executor="process")
def die(how: str) -> None:
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)


@heavy.handler("hang", executor="process")
def hang(pids: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pids).with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    Path(pids).with_suffix(".part").rename(pids)
    ctypes.PyDLL(None).sleep(600)  # holds the GIL, as bad native code does


@heavy.handler("grow", executor="process")
def grow(megabytes: int) -> int:
    globals()["kept"] = bytearray(os.urandom(1)) * (megabytes * 1024 * 1024)
    return os.getpid()


@heavy.handler("loop", executor="process")
def loop() -> int:
    return asyncio.run(asyncio.sleep(0, result=4))


@heavy.handler("say", executor="process")
def say() -> None:
    logging.getLogger("shop").warning("from a handler")


@heavy.handler("mute", executor="process")
def mute() -> int:
    sys.stdout.close()
    return 7


@heavy.handler("thread", executor="thread")
def thread() -> None: ...


@with_deps.handler("async deps", executor="process")
def use_deps(ctx: SyncContext[Deps]) -> bool:
    async def where() -> int:
        return threading.get_ident()

    there = asyncio.run_coroutine_threadsafe(where(), ctx.deps.loop)
    return there.result(5) == ctx.deps.entered_in != threading.get_ident()


@with_plain_deps.handler("plain deps", executor="process")
def use_plain_deps(ctx: SyncContext[int]) -> bool:
    return ctx.deps == threading.get_ident()


@heavy.handler("enqueue", executor="process")
def enqueue(ctx: SyncContext[None]) -> str:
    return ctx.client.enqueue(square.job(3)).id
