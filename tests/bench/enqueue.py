"""Enqueueing beside Node: one by one, and in bulks of 1,000. `python -m tests.bench.enqueue PORT QUEUE HOW JOBS` is one run."""

import asyncio
import subprocess
import sys
import time
from statistics import median
from typing import IO

from bullpen import Client, JobSpec, embedded
from tests.bench import handlers, report, throughput


async def run(port: int, queue: str, how: str, jobs: int) -> float:
    """Enqueue and give jobs per second."""

    def spec(number: int) -> JobSpec[None]:
        return handlers.nothing.job({"i": number})

    async with Client(f"redis://127.0.0.1:{port}/0") as client:
        target = client.queue(queue)

        async def single(count: int) -> None:
            for number in range(count):
                await target.enqueue(spec(number))

        async def bulk(count: int) -> None:
            for start in range(0, count, 1000):
                await target.enqueue_many([spec(start + number) for number in range(1000)])

        add = single if how == "single" else bulk
        await add(200 if how == "single" else 2000)
        began = time.perf_counter()
        await add(jobs)
        return jobs / (time.perf_counter() - began)


def measure(found: report.Report, repetitions: int, log: IO[bytes]) -> None:
    """Run both sides in turn and add what they show."""
    with embedded.start(unix=False) as server:
        port = server.url.rpartition(":")[2].partition("/")[0]
        for how, jobs, target in (("single", 5000, 1.2), ("bulk", 20_000, 1.4)):
            sides = {
                "bullpen": [sys.executable, "-m", "tests.bench.enqueue", port, "bench", how, str(jobs)],
                "node": ["node", str(throughput.NODE / "bench-enqueue.mjs"), port, "bench", how, str(jobs)],
            }
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for repetition in range(repetitions):
                for side in sides if repetition % 2 else reversed(sides):
                    server.flush()
                    output = subprocess.run(
                        sides[side], check=True, stdout=subprocess.PIPE, stderr=log, cwd=throughput.ROOT, timeout=120
                    ).stdout
                    rates[side].append(float(output))
            shown = ", ".join(f"{side} {median(each):,.0f}" for side, each in rates.items())
            found.note(f"enqueue {how}: jobs/s (medians)", shown)
            ratio = report.paired(rates["bullpen"], rates["node"])
            found.at_least(f"enqueue {how}: beside Node", ratio, target, report.times)


if __name__ == "__main__":
    print(asyncio.run(run(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))))
