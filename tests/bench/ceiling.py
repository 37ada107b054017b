"""The bare Lua: what Redis can do at most, asked by a client that does nothing but send the finish-and-fetch script.

Jobs are locked as any worker must, so that the script does the same work; nothing is counted, renewed or kept.

python -m tests.bench.ceiling PORT QUEUE CONCURRENCY CONNECTIONS: finishes all waiting jobs, without any handler.
"""

import asyncio
import sys
import time

import hiredis
import msgpack

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys


def pack(*words: bytes | str | int) -> bytes:
    """Pack a command."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


class Finisher(asyncio.Protocol):
    """Keeps `window` jobs in flight: each reply names a job, which is finished at once."""

    def __init__(self, keys: QueueKeys, window: int) -> None:
        self.window = window
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.finished = 0
        self._reader = hiredis.Reader()
        now = int(time.time() * 1000)
        base = keys.base
        common = [keys.wait, keys.active, keys.prioritized, keys.events, keys.stalled, keys.limiter, keys.delayed]
        opts = msgpack.packb(
            {
                "token": "ceiling",
                "lockDuration": 30_000,
                "keepJobs": {"count": 0},
                "attempts": 0,
                "maxMetricsSize": "",
                "limiter": None,
                "fpof": False,
                "cpof": False,
                "idof": False,
                "rdof": False,
                "name": "",
            }
        )
        active = lua.bullmq("moveToActive-11")
        finish = lua.bullmq("moveToFinished-14")
        fetch_opts = msgpack.packb({"token": "ceiling", "lockDuration": 30_000})
        self._fetch = pack(
            "EVALSHA", active.sha, 11, keys.wait, keys.active, keys.prioritized, keys.events, keys.stalled, keys.limiter,
            keys.delayed, keys.paused, keys.meta, keys.priority_counter, keys.marker, base, now, fetch_opts,
        )  # fmt: skip
        head = ["EVALSHA", finish.sha, 14, *common, keys.paused, keys.meta, keys.priority_counter, keys.completed]
        self._ack = lambda job: pack(
            *head, keys.job(job), keys.metrics_completed, keys.marker, job, now, "returnvalue", "null", "completed", "1",
            base, opts,
        )  # fmt: skip

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open the window."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.idle = 0
        self._transport.write(self._fetch * self.window)

    def data_received(self, data: bytes) -> None:
        """Finish what came."""
        self._reader.feed(data)
        out = []
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                self.done.set_exception(RuntimeError(str(reply)))
                return
            if isinstance(reply, list) and isinstance(reply[0], list):
                self.finished += 1
                out.append(self._ack(reply[1].decode()))
            else:
                self.idle += 1
        if out:
            self._transport.write(b"".join(out))
        if self.idle >= self.window and not self.done.done():
            self.done.set_result(self.finished)


async def main(port: int, queue: str, concurrency: int, connections: int) -> None:
    """Say "ready", wait for a line, drain the queue."""
    keys = QueueKeys("bull", queue)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    finishers = [
        (await loop.create_connection(lambda: Finisher(keys, concurrency // connections), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    print(sum(await asyncio.gather(*(finisher.done for finisher in finishers))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
