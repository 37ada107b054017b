"""How soon the next job starts when limits let it: total concurrency, a worker that retires, a rate limit."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import IO

import redis

from bullpen import Client, JobHandle, JobSpec, embedded
from bullpen.queue.keys import QueueKeys
from tests.bench import handlers, idle, processes, report, throughput

NAP_MS = 50
RETIREMENTS = 10

Span = tuple[float, float]
"""When a job's handler began and ended, in ms since the epoch."""


@contextlib.asynccontextmanager
async def workers(url: str, queue: str, number: int, concurrency: int, log: IO[bytes]) -> AsyncIterator[None]:
    """Have workers run that look for jobs."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    with contextlib.closing(redis.Redis.from_url(url)) as plain, contextlib.ExitStack() as stack:
        key = QueueKeys("bull", queue).workers
        for _ in range(number):
            command = idle.worker(port, queue, concurrency)
            stack.enter_context(processes.running(command, stdout=log, stderr=log, cwd=throughput.ROOT))
        await asyncio.to_thread(
            processes.wait_for, lambda: plain.hlen(key) == number, "the workers to say who they are"
        )
        async with Client(url) as client:  # and to be at work
            warm = await client.queue(queue).enqueue_many([handlers.nap.job(1) for _ in range(2 * number)])
            await spans(warm)
        await asyncio.sleep(1)  # ready, connected, and waiting for the marker
        yield


async def spans(handles: list[JobHandle[list[int]]]) -> list[Span]:
    """Wait for the jobs; give when each ran, in the order of their starts."""
    results = await asyncio.gather(*(handle.result(timeout="60s") for handle in handles))
    return sorted((began / 1e6, ended / 1e6) for began, ended in results)


def naps(number: int, milliseconds: int = NAP_MS, **options: int) -> list[JobSpec[list[int]]]:
    """Give jobs that sleep."""
    return [handlers.nap.job(milliseconds).with_options(**options) for _ in range(number)]  # type: ignore[arg-type]


async def total_concurrency(url: str, plain: "redis.Redis", log: IO[bytes]) -> float:
    """40 jobs of 50 ms, two at a time by the queue's limit, ten by the worker's; gives the time over the ideal one."""
    queue = "total"
    async with Client(url) as client, workers(url, queue, 1, 10, log):
        plain.hset(QueueKeys("bull", queue).meta, "concurrency", 2)
        took = []
        for _ in range(3):
            found = await spans(await client.queue(queue).enqueue_many(naps(40)))
            took.append(max(ended for _, ended in found) - found[0][0])
    return median(took) / (40 / 2 * NAP_MS)


async def retirement(url: str, plain: "redis.Redis", log: IO[bytes]) -> list[float]:
    """Two workers, one job at a time: the one that runs it retires; gives how soon the other starts the next, in ms."""
    queue = "retire"
    keys = QueueKeys("bull", queue)
    gaps = []
    async with Client(url) as client, workers(url, queue, 2, 5, log):
        plain.hset(keys.meta, "concurrency", 1)
        for _ in range(RETIREMENTS):
            handles = await client.queue(queue).enqueue_many(naps(2, 500, priority=5))
            await asyncio.sleep(0.25)
            [running] = plain.lrange(keys.active, 0, -1)
            worker = plain.hget(keys.job(running.decode()), "pb")
            order = {"v": 1, "start": 1, "deadline": int((time.time() + 30) * 1000)}
            plain.hset(keys.retiring, worker, json.dumps(order))
            plain.publish(keys.nudge, "retiring")
            (_, ended), (began, _) = await spans(handles)
            assert plain.hget(keys.job(handles[1].id), "pb") != worker, "the worker that was to retire went on"
            gaps.append(began - ended)
            plain.delete(keys.retiring)
            plain.publish(keys.nudge, "retiring")
            await asyncio.sleep(0.5)
    return gaps


async def rate_limit(url: str, plain: "redis.Redis", log: IO[bytes]) -> list[float]:
    """20 jobs at 5 a second: gives how late the last of each burst is, in ms after it could have started."""
    queue = "rate"
    async with Client(url) as client, workers(url, queue, 1, 10, log):
        plain.hset(QueueKeys("bull", queue).meta, mapping={"max": 5, "duration": 1000})
        await asyncio.sleep(1.5)
        starts = [began for began, _ in await spans(await client.queue(queue).enqueue_many(naps(20, 1)))]
    bursts = [starts[place : place + 5] for place in range(0, 20, 5)]
    return [burst[-1] - (before[0] + 1000) for before, burst in itertools.pairwise(bursts)]


def measure(found: report.Report, log: IO[bytes]) -> None:
    """Start workers on each of the three queues in turn, and add what they show."""
    with embedded.start(unix=False) as server, contextlib.closing(redis.Redis.from_url(server.url)) as plain:
        ratio = asyncio.run(total_concurrency(server.url, plain, log))
        found.below("40 jobs of 50 ms, total concurrency 2: beside the ideal time", ratio, 1.3, report.times)
        gaps = asyncio.run(retirement(server.url, plain, log))
        found.below("a worker retires: the other starts the next, longest of 10", max(gaps), 50, report.milliseconds)
        late = asyncio.run(rate_limit(server.url, plain, log))
        found.below("5 jobs/s, 20 jobs: bursts late by, at most", max(late), 50, report.milliseconds)
