"""A queue in a real Redis, and workers on it of which only the locks are real."""

from __future__ import annotations

import time

from bullpen.redis.failures import ConnectFailed, ConnectionLost, ReplyError
from bullpen.redis.handshake import connect
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import pack_command
from bullpen_worker.keeping.keeper import Terms
from bullpen_worker.keeping.recovery import worker_name

TERMS = Terms(lock_ms=5_000, check_ms=200, max_crashes=3)
PASSING = (ConnectFailed, ConnectionLost, ReplyError)


class Line:
    """Scripts over one connection of the wire, opened again when it was lost."""

    def __init__(self, url):
        self.settings = RedisSettings.from_url(url)
        self.connection = None
        self.calls = 0

    async def eval(self, script, keys, args):
        self.calls += 1
        if self.connection is None or not self.connection.open:
            self.connection = await connect(self.settings)
        words = [script.source, len(keys), *keys, *args]
        return await self.connection.call(pack_command("EVAL", *words))

    async def close(self):
        if self.connection is not None:
            self.connection.close()
            await self.connection.wait_closed()


class Notes:
    """Hooks that write down what they are told."""

    def __init__(self):
        self.lost_jobs = []
        self.kept = 0
        self.failures = []
        self.decisions = []

    def lost(self, run):
        self.lost_jobs.append(run.view.job_id)

    def renewed(self, kept, lost):
        self.kept += kept

    def renewal_failed(self, error):
        self.failures.append(error)

    def recovered(self, decisions):
        self.decisions.extend(decisions)


class Queue:
    """BullMQ's own state of one queue, made as a worker would make it."""

    def __init__(self, client, keys, line):
        self.client = client
        self.keys = keys
        self.line = line

    async def add(self, job_id, **fields):
        fields = {"name": "work", "data": "{}", "opts": "{}", "timestamp": 1, "delay": 0, "priority": 0} | fields
        await self.client.hset(self.keys.job(job_id), mapping=fields)
        await self.client.lpush(self.keys.wait, job_id)

    async def fetch(self, worker, token="token", lock_ms=TERMS.lock_ms):
        """What `moveToActive` does, of the next job; its id."""
        job_id = (await self.client.lmove(self.keys.wait, self.keys.active, "RIGHT", "LEFT")).decode()
        await self.client.set(self.keys.lock(job_id), token, px=lock_ms)
        await self.client.hset(self.keys.job(job_id), "pb", worker)
        await self.client.hincrby(self.keys.job(job_id), "ats", 1)
        return job_id

    async def start(self, job_id, worker, token="token", lock_ms=TERMS.lock_ms, **fields):
        await self.add(job_id, **fields)
        assert await self.fetch(worker, token, lock_ms) == job_id

    async def forget_lock(self, job_id):
        await self.client.delete(self.keys.lock(job_id))

    async def field(self, job_id, name):
        value = await self.client.hget(self.keys.job(job_id), name)
        return None if value is None else value.decode()

    async def waiting(self):
        return [raw.decode() for raw in await self.client.lrange(self.keys.wait, 0, -1)]

    async def active(self):
        return sorted(raw.decode() for raw in await self.client.lrange(self.keys.active, 0, -1))


SELF = worker_name("self", "0" * 12)


def dead(number=1):
    return worker_name("dead", f"{number:012x}")


def now_ms():
    return time.monotonic_ns() // 1_000_000
