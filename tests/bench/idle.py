"""What a worker costs and how fast it wakes when it has nothing to do: pickup, delays, commands, memory, imports."""

import asyncio
import contextlib
import os
import random
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import redis

from bullpen import Client, embedded
from tests.bench import handlers, processes, report, throughput


def worker(port: int, queue: str, concurrency: int) -> list[str]:
    """Give the command of a worker of ours."""
    return [
        sys.executable, "-m", "bullpen_cli", "worker", "--redis", f"redis://127.0.0.1:{port}/0", "--queue", queue,
        "--concurrency", str(concurrency), "--handlers", "tests.bench.handlers",
    ]  # fmt: skip


async def pickup(client: Client, queue: str, jobs: int) -> list[float]:
    """Enqueue one job at a time on an idle worker; give enqueue → handler starts, in ms."""
    dice = random.Random(1)
    target = client.queue(queue)
    took = []
    for _ in range(jobs):
        await asyncio.sleep(dice.uniform(0.005, 0.05))
        began = time.time_ns()
        handle = await target.enqueue(handlers.stamp.job({}))
        took.append((await handle.result(timeout="10s") - began) / 1e6)
    return took


async def lateness(client: Client, queue: str, jobs: int) -> list[float]:
    """Enqueue delayed jobs; give how late each handler started, in ms."""
    dice = random.Random(2)
    target = client.queue(queue)

    async def one() -> float:
        delay = dice.randint(500, 8000)
        enqueued = time.time_ns()
        handle = await target.enqueue(handlers.stamp.job({}), delay=f"{delay}ms")
        info = await handle.info()
        started = await handle.result(timeout="30s")
        due = info.enqueued_at.timestamp() * 1e3 + delay
        assert started >= enqueued + delay * 1e6 - 2e6, "a job started before it was due"
        return started / 1e6 - due

    return await asyncio.gather(*(one() for _ in range(jobs)))


def commands_per_second(port: int, seconds: float) -> float:
    """Count what clients send, by MONITOR: what a script calls is none of it, nor are the blocking waits."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"MONITOR\r\n")
        heard, deadline = b"", time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            with contextlib.suppress(TimeoutError):
                heard += connection.recv(65_536)
    lines = heard.decode(errors="replace").splitlines()[1:]
    sent = [line for line in lines if " lua] " not in line and '"BZPOPMIN"' not in line.upper()]
    return len(sent) / seconds


def measure_worker(found: report.Report, log: IO[bytes]) -> None:
    """Start a worker of concurrency 100 and look at it."""
    with embedded.start(unix=False) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        plain = redis.Redis(port=port)

        async def latencies() -> tuple[list[float], list[float]]:
            async with Client(server.url) as client:
                await pickup(client, "bench", 20)
                return await pickup(client, "bench", 400), await lateness(client, "bench", 100)

        with processes.running(worker(port, "bench", 100), stdout=log, stderr=log, cwd=throughput.ROOT) as process:
            processes.wait_for(lambda: len(plain.client_list()) > 2, "the worker to connect")
            picked, late = asyncio.run(latencies())
            found.below(
                "idle worker: enqueue → handler starts, p50", report.quantile(picked, 0.5), 3, report.milliseconds
            )
            found.below(
                "idle worker: enqueue → handler starts, p99", report.quantile(picked, 0.99), 15, report.milliseconds
            )
            found.below("delayed jobs: late by, p99", report.quantile(late, 0.99), 15, report.milliseconds)
            time.sleep(5)
            rate = commands_per_second(port, 30)
            found.below(
                "idle worker of concurrency 100: commands/s beyond its blocking wait", rate, 1, report.per_second
            )
            found.below(
                "supervisor and one child: memory (PSS)", processes.pss_megabytes(process.pid), 120, report.megabytes
            )


def fastest(command: list[str], log: IO[bytes], runs: int = 7) -> float:
    """Run a command several times and give the median time in ms."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=throughput.ROOT, timeout=60)
        took.append((time.perf_counter() - began) * 1e3)
    return report.quantile(took, 0.5)


def measure_imports(found: report.Report, log: IO[bytes]) -> None:
    """Weigh `import bullpen` and time `bullpen --help`."""
    code = (
        "import time; began = time.perf_counter(); import bullpen; took = time.perf_counter() - began\n"
        # Not ru_maxrss: the kernel carries that over from the process that started this one.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(took * 1e3, int(peak.split()[1]) / 1024)"
    )
    runs = [
        [float(part) for part in subprocess.check_output([sys.executable, "-c", code], cwd=throughput.ROOT).split()]
        for _ in range(7)
    ]
    found.below("import bullpen", report.quantile([run[0] for run in runs], 0.5), 250, report.milliseconds)
    found.below("import bullpen: memory (RSS)", report.quantile([run[1] for run in runs], 0.5), 60, report.megabytes)
    program = str(Path(sys.executable).with_name("bullpen"))
    found.below("bullpen --help", fastest([program, "--help"], log), 600, report.milliseconds)


def machine() -> str:
    """Say in a line what this ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {sys.version.split()[0]}, benchmark itself {own} MB"
