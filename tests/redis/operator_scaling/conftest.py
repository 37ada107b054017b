"""A scaler on a real Redis, with a cluster that is recorded."""

from __future__ import annotations

import pytest
import redis.asyncio

from tests.support.recorded import LocalRedis, Stage


@pytest.fixture
async def plain(bullpen_redis):
    made = redis.asyncio.Redis.from_url(bullpen_redis)
    yield made
    await made.aclose()


@pytest.fixture
async def stage(bullpen_redis):
    async with Stage(bullpen_redis) as made:
        yield made


@pytest.fixture
async def local(bullpen_redis):
    from bullpen.redis.settings import RedisSettings

    made = LocalRedis(RedisSettings.of(bullpen_redis))
    async with made.link:
        yield made
