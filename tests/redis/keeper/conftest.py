"""A queue in a real Redis, and workers on it of which only the locks are real."""

from __future__ import annotations

import pytest
import redis.asyncio

from bullpen.queue.keys import QueueKeys
from bullpen_worker.keeping.keeper import Keeper
from bullpen_worker.keeping.table import SlotTable
from tests.support.keeping import PASSING, SELF, TERMS, Line, Notes, Queue


@pytest.fixture
async def client(bullpen_redis):
    made = redis.asyncio.Redis.from_url(bullpen_redis)
    yield made
    await made.aclose()


@pytest.fixture
async def line(bullpen_redis):
    made = Line(bullpen_redis)
    yield made
    await made.close()


@pytest.fixture
async def queue(client, line):
    return Queue(client, QueueKeys("bull", "mail"), line)


@pytest.fixture
def table():
    made = SlotTable.create(8)
    yield made
    made.close()


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def keeper(queue, line, notes, table):
    made = Keeper(line, queue.keys, name=SELF, hooks=notes, passing=PASSING, terms=TERMS)
    made.watch(table)
    return made
