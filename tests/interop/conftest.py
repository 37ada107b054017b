"""Node's BullMQ beside ours. Where Node is missing these tests are skipped, aloud; with BULLPEN_REQUIRE=node they fail."""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from bullpen import embedded

NODE = Path(__file__).with_name("node")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Node's bullmq, installed by the lock file if it is not there yet."""
    missing = next((tool for tool in ("node", "npm") if shutil.which(tool) is None), None)
    if missing is not None:
        message = f"{missing} is not installed: nothing is compared with Node's BullMQ"
        if "node" in os.environ.get("BULLPEN_REQUIRE", "").split(","):
            pytest.fail(f"{message}, and BULLPEN_REQUIRE asks for it")
        pytest.skip(message)
    modules = NODE / "node_modules"
    with (NODE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may come here at once
        if not (modules / "bullmq" / "package.json").is_file():
            # Not `npm ci`: it wants optional packages of platforms in the lock that not every registry has. This, too,
            # takes the lock's versions, checks what it fetched, and leaves the lock as it is.
            command = ["npm", "install", "--no-save", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return modules


@pytest.fixture(scope="session")
def tcp_server(redis_binary):
    """A server that Node reaches too."""
    with embedded.start(binary=redis_binary, unix=False) as server:
        yield server


@pytest.fixture
def redis_url(tcp_server) -> str:
    """The URL of that server, emptied."""
    tcp_server.flush()
    return tcp_server.url


@pytest.fixture
def raw(redis_url):
    """What lies in Redis."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as raw:
        yield raw


class NodeDriver:
    """Calls `tests/interop/node/driver.mjs`: ``await node.add("queue", "name", {…}, {…})``.

    What Node raises is a `NodeError`. `jobs` are the starts that its workers have told, `events` what was asked for by
    `watch`, `stalled` the jobs that its workers took back.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.jobs: list[dict] = []
        self.events: list[dict] = []
        self.stalled: list[str] = []
        self.errors: list[str] = []
        self._process = process
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future] = {}
        self._ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, *args: object) -> object:
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": number, "method": method, "args": args}).encode() + b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(60):
            return await future

    def __getattr__(self, method: str):
        return lambda *args: self.call(method, *args)

    async def told(self) -> "NodeDriver":
        """Wait until all is here that Node has said by now: a result in Redis may be faster than its own word."""
        await self.call("counts", "q")
        return self

    async def ready(self) -> None:
        async with asyncio.timeout(60):
            await self._ready

    async def kill(self) -> None:
        """End the process as the kernel's OOM killer does."""
        self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        self._process.stdin.close()
        try:
            async with asyncio.timeout(60):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reader
        self._process._transport.close()

    async def _read(self) -> None:
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            match message.get("event"):
                case "ready":
                    self._ready.set_result(None)
                case "job":
                    self.jobs.append(message)
                case "error":
                    self.errors.append(message["message"])
                case "stalled":
                    self.stalled.append(message["id"])
                case "queue":
                    self.events.append({"type": message["type"], **message["args"]})
                case None:
                    future = self._waiting.pop(message["id"])
                    if not future.done():
                        error = message.get("error")
                        future.set_exception(NodeError(error)) if error else future.set_result(message["result"])
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NodeError("the Node process has ended"))


def put_off_ms(raw):
    """By how much each retry of the queue `q` was put off, or a little less: from the event to the time that it names."""
    found = [(at, event) for at, event in raw.xrange("bull:q:events") if event["event"] == "delayed"]
    return [int(event["delay"]) - int(at.partition("-")[0]) for at, event in found] + [0, 0]  # none is told of at once


class NodeError(Exception):
    """What Node's BullMQ raised."""


@pytest.fixture
async def start_node(node_modules, redis_url) -> AsyncIterator[Callable[[], Awaitable[NodeDriver]]]:
    """Start Node processes, each with BullMQ on the same server; they end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(url: str = redis_url, *account: str) -> NodeDriver:
            process = await asyncio.create_subprocess_exec(
                "node",
                "driver.mjs",
                str(urlsplit(url).port),
                *account,
                cwd=NODE,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**24,
            )
            driver = NodeDriver(process)
            stack.push_async_callback(driver.close)
            await driver.ready()
            return driver

        yield start


@pytest.fixture
async def node(start_node) -> NodeDriver:
    """Node's BullMQ on the same server."""
    return await start_node()


@pytest.fixture
async def client(redis_url):
    """Our client on the same server."""
    from bullpen import Client

    async with contextlib.AsyncExitStack() as stack:
        yield await stack.enter_async_context(Client(redis_url))
