"""Enqueue so many jobs: python -m load.produce COUNT [--first N] [--shortest S] [--longest S] [--seed N]."""

import argparse
import asyncio
import math
import random

from bullpen import Client
from load.jobs import Work, work


async def produce(count: int, first: int, shortest: float, longest: float, seed: int) -> None:
    """Enqueue them, with ids of their own; their lengths are spread evenly over the orders of magnitude."""
    chance = random.Random(seed)
    low, high = math.log(shortest), math.log(longest)
    lengths = [math.exp(chance.uniform(low, high)) for _ in range(count)]
    async with Client() as client:
        for at in range(0, count, 100):
            batch = list(enumerate(lengths[at : at + 100], first + at))
            await client.enqueue_many(
                work.job(Work(seconds=seconds)).with_options(job_id=f"job-{number}") for number, seconds in batch
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shortest", type=float, default=0.1)
    parser.add_argument("--longest", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    asyncio.run(produce(a.count, a.first, a.shortest, a.longest, a.seed))
