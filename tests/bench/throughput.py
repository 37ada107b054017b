"""Jobs per second of no-op async jobs, one worker process, beside Node, the Python port and the bare Lua.

Each repetition runs all contenders one after the other, in turning order, on the same Redis; the ratios are of the same
repetition. Jobs are there before the clock starts: the queue is paused, the worker connects, the queue is resumed. It stops at
the last event that Redis wrote to the queue's stream, by Redis' own clock: looking more often would take the processor
from those who are measured.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

import redis

from bullpen import embedded
from bullpen.queue.keys import QueueKeys
from tests.bench import processes, report

NODE = Path(__file__).parent.parent / "interop" / "node"
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Run:
    """One contender's run: rate, and the processor time of worker and Redis for each job."""

    rate: float
    worker_us: float
    redis_share: float


class Track:
    """One Redis on which contenders run."""

    def __init__(self, server: embedded.Server, log: IO[bytes]) -> None:
        self.server = server
        self.log = log
        self.port = int(server.url.rpartition(":")[2].partition("/")[0])
        self.redis = redis.Redis(port=self.port)
        self.keys = QueueKeys("bull", "bench")

    def preload(self, jobs: int, *, keep: int | bool) -> None:
        """Lay the jobs as Node's `add` would, by BullMQ's own script."""
        import json

        import msgpack

        from bullpen.queue import lua

        self.redis.flushall()
        add = lua.bullmq("addStandardJob-9")
        keys = self.keys
        self.redis.hset(keys.meta, "paused", 1)
        now = int(time.time() * 1000)
        opts = msgpack.packb({"attempts": 0, "removeOnComplete": keep})
        pipe = self.redis.pipeline(transaction=False)
        for script in (add, lua.bullmq("moveToActive-11"), lua.bullmq("moveToFinished-14")):  # the bare Lua loads none
            pipe.script_load(script.source)
        for number in range(jobs):
            head = msgpack.packb([keys.base, "", "noop", now, None, None, None, None, None])
            pipe.evalsha(
                add.sha, 9, keys.wait, keys.paused, keys.meta, keys.id, keys.completed, keys.delayed, keys.active,
                keys.events, keys.marker, head, json.dumps({"i": number}), opts,
            )  # fmt: skip
            if number % 2000 == 1999:
                pipe.execute()
        pipe.execute()

    def resume(self) -> float:
        """Let the workers begin, as BullMQ's resume does; gives when that was, by Redis' clock."""
        with self.redis.pipeline() as pipe:
            pipe.hdel(self.keys.meta, "paused")
            pipe.zadd(self.keys.marker, {"0": 0})
            pipe.time()
            seconds, microseconds = pipe.execute()[-1]
        return seconds + microseconds / 1e6

    def ended(self) -> float:
        """Give when the queue's last event was, by Redis' clock."""
        ((identifier, _fields),) = self.redis.xrevrange(self.keys.events, count=1)
        return int(bytes(identifier).partition(b"-")[0]) / 1e3

    def left(self) -> int:
        """Count the jobs that have not ended."""
        with self.redis.pipeline() as pipe:
            pipe.llen(self.keys.wait)
            pipe.llen(self.keys.active)
            return sum(pipe.execute())

    def race(self, command: list[str], jobs: int, *, keep: int | bool, starts_itself: bool = False) -> Run:
        """Run one contender until all jobs have ended."""
        self.preload(jobs, keep=keep)
        connected = len(self.redis.client_list())
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE} if starts_itself else {"stdout": self.log}
        with processes.running(command, stderr=self.log, cwd=ROOT, **options) as process:
            if starts_itself:
                assert process.stdout
                assert process.stdin
                process.stdout.readline()
            else:
                processes.wait_for(lambda: len(self.redis.client_list()) > connected, "the worker to connect")
                time.sleep(1.0)  # the rest of its start-up is not what is measured
            cpu, redis_cpu = processes.cpu_seconds(process.pid), processes.cpu_seconds(self.server.pid)
            began = self.resume()
            if starts_itself:
                assert process.stdin
                process.stdin.write(b"\n")
                process.stdin.flush()
            processes.wait_for(lambda: self.left() == 0, "the jobs to end", timeout=120, pause=0.02)
            took = self.ended() - began
            used = processes.cpu_seconds(process.pid) - cpu
            redis_used = processes.cpu_seconds(self.server.pid) - redis_cpu
        return Run(jobs / took, used / jobs * 1e6, redis_used / took)


def contenders(track: Track, concurrency: int) -> dict[str, Callable[[int, int | bool], Run]]:
    """Name each contender and say how it runs."""
    queue = track.keys.queue
    port = str(track.port)
    c = str(concurrency)
    python = [sys.executable, "-m"]
    bullpen = [
        *python, "bullpen_cli", "worker", "--redis", f"redis://127.0.0.1:{port}/0", "--queue", queue, "--concurrency", c,
        "--handlers", "tests.bench.handlers",
    ]  # fmt: skip
    found = {
        "bullpen": lambda jobs, keep: track.race(bullpen, jobs, keep=keep),
        "node": lambda jobs, keep: track.race(
            ["node", str(NODE / "bench-worker.mjs"), port, queue, c], jobs, keep=keep
        ),
        "lua-1": lambda jobs, keep: track.race(
            [*python, "tests.bench.ceiling", port, queue, c, "1"], jobs, keep=keep, starts_itself=True
        ),
        "port": lambda jobs, keep: track.race([*python, "tests.bench.port", port, queue, c], jobs // 5, keep=keep),
    }
    if concurrency > 1:
        found["lua-2"] = lambda jobs, keep: track.race(
            [*python, "tests.bench.ceiling", port, queue, c, "2"], jobs, keep=keep, starts_itself=True
        )
    return found


def measure(found: report.Report, repetitions: int, jobs: int, log: IO[bytes]) -> None:
    """Run all contenders at each concurrency and add what they show."""
    with embedded.start(unix=False) as server:
        track = Track(server, log)
        for concurrency in (1, 10, 50, 100):
            field = contenders(track, concurrency)
            runs: dict[str, list[Run]] = {name: [] for name in field}
            order = list(field)
            for repetition in range(repetitions):
                turn = repetition % len(order)
                for name in order[turn:] + order[:turn]:
                    runs[name].append(field[name](jobs // 2 if concurrency == 1 else jobs, True))
            rates = {name: [run.rate for run in each] for name, each in runs.items()}
            ceiling = [
                max(pair) for pair in zip(*(rates[name] for name in rates if name.startswith("lua")), strict=True)
            ]
            at = f"c={concurrency}"
            shown = ", ".join(f"{name} {median(each):,.0f}" for name, each in rates.items())
            found.note(f"{at}: jobs/s (medians)", shown)
            found.at_least(f"{at}: beside Node", report.paired(rates["bullpen"], rates["node"]), 1.3, report.times)
            found.at_least(f"{at}: of the bare Lua", report.paired(rates["bullpen"], ceiling), 0.75, report.percent)
            if concurrency >= 10:
                ratio = report.paired(rates["bullpen"], rates["port"])
                found.at_least(f"{at}: beside the Python port", ratio, 5, report.times)
            cpu = report.paired(*([run.worker_us for run in runs[name]] for name in ("bullpen", "node")))
            found.below(f"{at}: worker CPU per job, of Node's", cpu, 0.5, report.percent)
