"""One queue, `q`, on a server of the session; jobs of foreign producers come from the Python port's own Queue."""

import contextlib

import pytest
import redis

from bullpen import Client
from bullpen.queue.keys import QueueKeys


@pytest.fixture
def keys():
    return QueueKeys("bull", "q")


@pytest.fixture
def raw(bullpen_redis):
    """What lies in Redis."""
    with contextlib.closing(redis.Redis.from_url(bullpen_redis, decode_responses=True)) as raw:
        yield raw


@pytest.fixture
async def client(bullpen_redis):
    async with Client(bullpen_redis) as client:
        yield client


@pytest.fixture
def queue(client):
    return client.queue("q")


@pytest.fixture
async def port(bullpen_redis):
    """The Python port's Queue: a producer that checks nothing."""
    from bullmq import Queue

    connection = redis.asyncio.Redis.from_url(bullpen_redis, decode_responses=True)
    made = Queue("q", {"connection": connection})
    yield made
    await made.close()
    await connection.aclose()
