"""How soon the operator writes the number of replicas when a queue wakes, with 1,000 JobQueues on one Redis.

Times are from just before the add was sent to the arrival of the PATCH at the API server, by its audit log. The operator,
its API server, Redis and the producers share this machine.
"""

import argparse
import asyncio
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import redis

from bullpen import Client
from bullpen.queue.keys import QueueKeys
from tests.bench import handlers, herd, processes, report, throughput
from tests.bench.herd import Herd, Write

QUEUES = 1_000
BUSY = 200
BURST = 100
JOBS_PER_REPLICA = 10
_ARRIVES_SECONDS = 10.0


@dataclass
class Trials:
    """What many wakes of one kind showed."""

    name: str
    took_ms: list[float] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    burst_ms: list[float] = field(default_factory=list)
    wrong_size: int = 0

    def add(self, since: float, writes: list[Write], size: int, burst_ms: float = 0.0) -> None:
        """Take one: the last write is the one that counts."""
        self.took_ms.append((writes[-1].at - since) * 1e3)
        self.writes.append(len(writes))
        self.burst_ms.append(burst_ms)
        self.wrong_size += writes[-1].replicas != size

    def show(self, found: report.Report, *, p50: float | None, p99: float) -> None:
        """Add the lines of it."""
        if p50 is not None:
            found.below(f"{self.name}: p50", report.quantile(self.took_ms, 0.5), p50, report.milliseconds)
        found.below(f"{self.name}: p99", report.quantile(self.took_ms, 0.99), p99, report.milliseconds)
        short = [count for count, ms in zip(self.writes, self.burst_ms, strict=True) if ms < 40]
        long = [count for count, ms in zip(self.writes, self.burst_ms, strict=True) if ms >= 40]
        if short:
            found.below(f"{self.name}: most writes of a wake", max(short), 2, "{:.0f}".format)
        if long:
            found.below(f"{self.name}: most writes of a burst ≥ 40 ms", max(long), 3, "{:.0f}".format)
        if any(self.burst_ms):
            found.note(f"{self.name}: length of a burst, p50", f"{report.quantile(self.burst_ms, 0.5):.0f} ms")
        found.below(f"{self.name}: writes of another size than needed", self.wrong_size, 1, "{:.0f}".format)


class Bench:
    """One run: takes a fresh quiet queue for each wake, and empties it afterwards."""

    def __init__(self, herd: Herd, client: Client, names: Iterator[str]) -> None:
        self._herd = herd
        self._client = client
        self._names = names
        self._plain = herd.plain
        self._dice = random.Random(1)

    async def first_job(self, trials: Trials, count: int, *, jobs: int = 1) -> None:
        """Wake queues one after the other with one job, or one bulk."""
        for _ in range(count):
            name = await self._quiet()
            target = self._client.queue(name)
            specs = [handlers.nothing.job({"i": number}) for number in range(jobs)]
            began = time.time()
            if jobs == 1:
                await target.enqueue(specs[0])
            else:
                await target.enqueue_many(specs)
            trials.add(began, await self._written(name, began, jobs), _replicas(jobs))
            self._empty(name)

    async def burst(self, trials: Trials, count: int) -> None:
        """Wake queues with awaited adds, one after the other."""
        for _ in range(count):
            name = await self._quiet()
            target = self._client.queue(name)
            began = last = time.time()
            for number in range(BURST):
                last = time.time()
                await target.enqueue(handlers.nothing.job({"i": number}))
            trials.add(last, await self._written(name, began, BURST), _replicas(BURST), (time.time() - began) * 1e3)
            self._empty(name)

    async def node_burst(self, trials: Trials, count: int, log: IO[bytes]) -> None:
        """The same by Node."""
        port = self._herd.redis.url.rpartition(":")[2].partition("/")[0]
        command = ["node", str(throughput.NODE / "bench-burst.mjs"), port, str(BURST)]
        with processes.running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as node:
            assert node.stdin is not None
            assert node.stdout is not None
            await asyncio.to_thread(node.stdout.readline)
            for _ in range(count):
                name = await self._quiet()
                node.stdin.write(f"{name}\n".encode())
                node.stdin.flush()
                line = await asyncio.to_thread(node.stdout.readline)
                first, last, end = (float(word) / 1e3 for word in line.split())
                trials.add(last, await self._written(name, first, BURST), _replicas(BURST), (end - first) * 1e3)
                self._empty(name)

    async def many(self, trials: Trials, rounds: int, together: int) -> None:
        """Wake many at once."""
        for _ in range(rounds):
            names = [await self._quiet(pause=0.0) for _ in range(together)]
            await asyncio.sleep(0.3)
            began = time.time()
            await asyncio.gather(*(self._client.queue(name).enqueue(handlers.nothing.job({"i": 1})) for name in names))
            for name in names:
                trials.add(began, await self._written(name, began, 1), 1)
                self._empty(name)
            await asyncio.sleep(1.0)

    async def _quiet(self, pause: float = 0.05) -> str:
        await asyncio.sleep(pause + self._dice.random() * pause)
        return next(self._names)

    async def _written(self, name: str, began: float, jobs: int) -> list[Write]:
        """Wait for the number that the jobs need, and a moment longer for any that would be too many."""
        deadline = time.monotonic() + _ARRIVES_SECONDS
        while True:
            found = [write for write in self._herd.scales().get(name, ()) if write.at >= began]
            if found and found[-1].replicas == _replicas(jobs):
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: {jobs} jobs, and the writes were {found}")
            await asyncio.sleep(0.02)
        return found

    def _empty(self, name: str) -> None:
        keys = QueueKeys("bull", name)
        self._plain.delete(keys.wait, keys.prioritized, keys.marker)


@contextmanager
def busy(url: str, names: list[str]) -> Iterator[None]:
    """Keep so many queues busy: in each of them jobs wait, their number moves, and events come in."""
    stop = threading.Event()

    def move() -> None:
        plain = redis.Redis.from_url(url)
        dice = random.Random(2)
        added: set[str] = set()
        while not stop.wait(0.1):
            pipe = plain.pipeline(transaction=False)
            for name in dice.sample(names, len(names) // 5):
                keys = QueueKeys("bull", name)
                pipe.xadd(keys.events, {"event": "completed", "jobId": "1"}, maxlen=1000)
                if name in added:
                    pipe.rpop(keys.wait)
                else:
                    pipe.lpush(keys.wait, "x")
                added ^= {name}
            pipe.execute()
        plain.close()

    plain = redis.Redis.from_url(url)
    for name in names:
        plain.lpush(QueueKeys("bull", name).wait, *["x"] * 25)
    plain.close()
    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def measure(
    found: report.Report, log: IO[bytes], *, queues: int = QUEUES, share: float = 1.0, prefer: bool = False
) -> None:
    """Run all of it, or this share of the wakes; see `Herd.prefer`."""
    with herd.running(queues, log) as town:
        if prefer:
            town.prefer()
        asyncio.run(_measure(found, town, log, share))


async def _measure(found: report.Report, town: Herd, log: IO[bytes], share: float) -> None:
    def times(count: int) -> int:
        return max(1, round(count * share))

    names = iter(town.names)
    async with Client(town.redis.url) as client:
        bench = Bench(town, client, names)
        await bench.first_job(Trials("warm-up"), 10)
        one, bulk = Trials("first job → PATCH"), Trials("one bulk of 100 → PATCH")
        await bench.first_job(one, times(150))
        await bench.first_job(bulk, times(60), jobs=BURST)
        one.show(found, p50=30, p99=60)
        bulk.show(found, p50=30, p99=60)
        ours, nodes = Trials("100 awaited adds: last → PATCH"), Trials("100 awaited adds by Node: last → PATCH")
        await bench.burst(ours, times(60))
        await bench.node_burst(nodes, times(60), log)
        ours.show(found, p50=25, p99=60)
        nodes.show(found, p50=25, p99=60)
        many = Trials("50 queues at once → PATCH")
        await bench.many(many, times(4), 50)
        many.show(found, p50=None, p99=250)
        with busy(town.redis.url, town.names[-BUSY:]):
            await asyncio.to_thread(herd.settle, town, calm_seconds=3.0, within=120, of="deployments/scale")
            one, ours = (
                Trials(f"{BUSY} busy: first job → PATCH"),
                Trials(f"{BUSY} busy: 100 awaited adds: last → PATCH"),
            )
            await bench.first_job(one, times(100))
            await bench.burst(ours, times(40))
            one.show(found, p50=30, p99=60)
            ours.show(found, p50=25, p99=60)
            many = Trials(f"{BUSY} busy: 50 queues at once → PATCH")
            await bench.many(many, times(2), 50)
            many.show(found, p50=None, p99=250)


def _replicas(jobs: int) -> int:
    return -(-jobs // JOBS_PER_REPLICA)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queues", type=int, default=QUEUES)
    parser.add_argument("--share", type=float, default=1.0, help="of the wakes that are measured")
    parser.add_argument("--prefer", action="store_true", help="run before all else on this machine; needs root")
    parser.add_argument("--log", default="/dev/null", help="where the operator's log goes")
    told = parser.parse_args()
    figures = report.Report()
    try:
        with open(told.log, "wb") as out:  # noqa: PTH123 - may be a device
            measure(figures, out, queues=told.queues, share=told.share, prefer=told.prefer)
    finally:
        figures.print("Reaction")
