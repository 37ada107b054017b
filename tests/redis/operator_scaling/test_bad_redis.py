"""The scaler on a Redis that is far away, loses its answers, or goes while workers retire: what runs is held."""

from __future__ import annotations

import asyncio
import dataclasses

import redis.asyncio

from bullpen_operator.kube import kinds
from tests.support.proxy import proxy
from tests.support.recorded import Stage, key_of, unit
from tests.support.scaling import AT_ONCE, KEYS, add, one_busy_of_two, pod, rounds, watched
from tests.support.slow import slow
from tests.support.waiting import eventually


def trouble(stage):
    state = stage.scaler.state(key_of("mail"))
    return "" if state is None else state.redis_trouble


async def test_a_redis_that_is_far_away_is_followed_all_the_same(bullpen_redis, plain):
    with slow(bullpen_redis) as far:
        far.delay_s = 0.15
        async with Stage(far.url) as stage:
            stage.add("mail")
            await watched(stage)
            await add(plain, 45)
            await eventually(lambda: stage.kube.scales_of("mail") == [5], timeout=15)
            assert trouble(stage) == ""


async def test_answers_that_are_lost_hold_what_runs(bullpen_redis, plain):
    async with proxy(bullpen_redis) as between, Stage(between.url) as stage:
        stage.add("mail", AT_ONCE)
        await watched(stage)
        await add(plain, 45)
        await eventually(lambda: stage.kube.replicas("mail") == 5, timeout=15)
        between.lose_replies = True
        await plain.delete(KEYS.wait)
        await eventually(lambda: trouble(stage), timeout=30)
        held = stage.kube.replicas("mail")
        writes = len(stage.kube.scales)
        between.lose_replies = False
        between.cut()
        await eventually(lambda: not trouble(stage), timeout=40)
        assert held == 5
        assert stage.kube.scales[writes:] == [] or stage.kube.scales[writes].value < 5
        await eventually(lambda: stage.kube.replicas("mail") == 0, timeout=15)


async def test_a_redis_that_goes_while_workers_retire_takes_nobody_with_it(redis_server):
    plain = redis.asyncio.Redis.from_url(redis_server.url)
    try:
        # Else Redis may hold back what it writes for two seconds on a disk that is busy, and who is killed loses that.
        await plain.config_set("appendfsync", "always")
        async with Stage(redis_server.url) as stage:
            await one_busy_of_two(stage, plain)
            stage.add("mail", AT_ONCE, replicas=2)
            await eventually(lambda: plain.hexists(KEYS.retiring, "b@0123456789ab"), timeout=15)
            await asyncio.to_thread(redis_server.kill)
            await eventually(lambda: trouble(stage), timeout=15)
            # It would be the one to go, were its order sure to hold.
            stage.kube.put(kinds.POD, pod("b", ready=False))
            decided = stage.scaler.decisions
            stage.scaler.put(unit("mail", dataclasses.replace(AT_ONCE, max_replicas=19)))
            assert stage.scaler.decisions > decided
            await eventually(lambda: not stage.scaler._cares[key_of("mail")].acting, timeout=15)
            assert stage.kube.scales == []
            await asyncio.to_thread(redis_server.restart)
            await eventually(lambda: not trouble(stage), timeout=30)
            await rounds(stage)
            assert stage.kube.scales == [], "nobody has said that b is idle and retired"
    finally:
        await plain.aclose()
