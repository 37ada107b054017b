"""A client on the shared server, and a raw look into it."""

import contextlib

import pytest
import redis

from bullpen import Client, SyncClient
from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import QueuePolicy

KEYS = QueueKeys("bull", "emails")


@pytest.fixture
def raw(bullpen_redis):
    with contextlib.closing(redis.Redis.from_url(bullpen_redis, decode_responses=True)) as raw:
        yield raw


@pytest.fixture
async def client(bullpen_redis):
    async with Client(bullpen_redis) as client:
        yield client


@pytest.fixture
def sync_client(bullpen_redis):
    with SyncClient(bullpen_redis) as client:
        yield client


@pytest.fixture
def set_policy(raw):
    """Write the queue's policy, as the operator does."""

    def set_policy(**spec):
        policy = QueuePolicy.from_spec(JobQueueSpec.model_validate(spec))
        raw.hset(KEYS.policy, mapping={"v": "1", "rev": policy.rev, "doc": policy.doc})
        return policy

    return set_policy


@pytest.fixture
def finish(raw):
    """Run a waiting job as a worker does, to its end: ``finish(id, "completed", "7")``."""

    import msgpack

    from bullpen.queue import lua

    def call(script, keys, args):
        return raw.eval(script.source, len(keys), *keys, *args)

    def start(job_id):
        raw.lrem(KEYS.wait, 1, job_id)
        raw.lpush(KEYS.active, job_id)
        raw.xadd(KEYS.events, {"event": "active", "jobId": job_id, "prev": "waiting"})

    def finish(job_id, state, value, *, keep=-1, fields=()):
        if job_id not in raw.lrange(KEYS.active, 0, -1):
            start(job_id)
        keys = [
            *(KEYS.wait, KEYS.active, KEYS.prioritized, KEYS.events, KEYS.stalled, KEYS.limiter, KEYS.delayed),
            *(KEYS.paused, KEYS.meta, KEYS.priority_counter, f"{KEYS.base}{state}", KEYS.job(job_id)),
            *(f"{KEYS.base}metrics:{state}", KEYS.marker),
        ]
        opts = {"token": "0", "keepJobs": {"count": keep}, "lockDuration": 1, "attempts": 1, "maxMetricsSize": ""}
        field = "returnvalue" if state == "completed" else "failedReason"
        args = [job_id, 1_790_000_000_000, field, value, state, "", KEYS.base, msgpack.packb(opts)]
        if fields:
            args.append(msgpack.packb(list(fields)))
        assert call(lua.bullmq("moveToFinished-14"), keys, args) == 0

    finish.start = start
    return finish
