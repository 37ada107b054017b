"""The Worker of the Python package `bullmq`, doing nothing: python -m tests.bench.port PORT QUEUE CONCURRENCY."""

import asyncio
import contextlib
import sys

from bullmq import Worker


async def nothing(job: object, token: str) -> None:
    """Do nothing."""


async def main(port: int, queue: str, concurrency: int) -> None:
    """Work until killed."""
    connection = {"host": "127.0.0.1", "port": port, "socket_timeout": None}
    worker = Worker(queue, nothing, {"connection": connection, "concurrency": concurrency, "autorun": False})
    await worker.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
