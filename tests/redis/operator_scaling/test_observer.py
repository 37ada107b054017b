"""The observer on a real Redis: nothing that wakes is missed, nothing that fails is a zero."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field

import pytest
import redis.asyncio

from bullpen.queue.keys import QueueKeys
from bullpen.redis.settings import RedisSettings
from bullpen_operator.kube.kinds import Key
from bullpen_operator.scaling import wake
from bullpen_operator.scaling.looking import NOTHING_YET, GiveOrders, Look, Remember, Retiree, Sight
from bullpen_operator.scaling.observer import Observer
from tests.support.recorded import LocalRedis, key_of
from tests.support.waiting import eventually


@dataclass
class Heard:
    """A listener that keeps the last of each queue."""

    sights: dict[Key, Sight] = field(default_factory=dict)
    troubles: dict[Key, str] = field(default_factory=dict)
    news: dict[Key, asyncio.Event] = field(default_factory=dict)
    decisions: list[tuple[Key, int]] = field(default_factory=list)

    def seen(self, key, sight, waited_ms):
        self.sights[key] = sight
        self.troubles.pop(key, None)
        self.decisions.append((key, sight.reading.backlog))
        self.news.setdefault(key, asyncio.Event()).set()

    def unseen(self, key, why):
        self.troubles[key] = why
        self.news.setdefault(key, asyncio.Event()).set()

    def polled(self, server, seconds, queues):
        pass

    def backlog(self, name):
        sight = self.sights.get(key_of(name))
        return None if sight is None or key_of(name) in self.troubles else sight.reading.backlog


@contextlib.asynccontextmanager
async def observing(server, *names):
    heard = Heard()
    observer = Observer(server, heard)
    for name in names:
        observer.add(key_of(name), QueueKeys("bull", name), crew=False)
    task = asyncio.create_task(observer.run())
    try:
        yield observer, heard
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def add(plain, name, jobs=1):
    """As BullMQ's script does it: the job and its event at one instant."""
    keys = QueueKeys("bull", name)
    async with plain.pipeline(transaction=True) as pipe:
        pipe.lpush(keys.wait, *["1"] * jobs)
        pipe.xadd(keys.events, {"event": "added", "jobId": "1"})
        await pipe.execute()


async def all_watched(observer):
    await eventually(lambda: observer.watched == len(observer), timeout=30)


async def test_a_quiet_queue_is_watched_and_its_first_job_is_seen_at_once(local, plain):
    async with observing(local, "a", "b") as (observer, heard):
        await all_watched(observer)
        readings = observer.readings
        await add(plain, "b")
        await eventually(lambda: heard.backlog("b") == 1, timeout=30)
        assert heard.backlog("a") == 0
        assert observer.readings - readings < 20


@pytest.mark.parametrize("tries", [1_500, pytest.param(10_000, marks=[pytest.mark.prove, pytest.mark.timeout(900)])])
async def test_no_wake_up_is_lost_between_polling_and_watching(local, plain, tries, monkeypatch):
    """Jobs come at any moment around the one at which a queue that has become empty goes from polled to watched."""
    monkeypatch.setattr(wake, "RESYNC_MS", 3_600_000.0)  # nobody looks again by itself
    queues = 40
    names = [f"q{number}" for number in range(queues)]
    dice = random.Random(7)
    late = []

    async with observing(local, *names) as (observer, heard):
        await all_watched(observer)

        async def race(name):
            keys, key = QueueKeys("bull", name), key_of(name)
            for _ in range(tries // queues + 1):
                await plain.delete(keys.wait)
                await asyncio.sleep(dice.random() * 0.6)
                if heard.sights[key].reading.backlog:  # it has not yet been seen empty: that is to come first
                    await eventually(lambda: heard.backlog(name) == 0, timeout=30)
                await add(plain, name)
                while not heard.sights[key].reading.backlog:
                    event = heard.news[key]
                    event.clear()
                    try:
                        async with asyncio.timeout(40):
                            await event.wait()
                    except TimeoutError:
                        late.append(name)
                        return

        await asyncio.gather(*(race(name) for name in names))
    assert late == []


async def test_hundreds_of_quiet_queues_cost_few_round_trips(local, plain):
    names = [f"q{number}" for number in range(600)]
    async with observing(local, *names) as (observer, heard):
        await all_watched(observer)
        assert len(observer._streams._readers) == 3
        before = observer.ticks
        await add(plain, names[0])
        await add(plain, names[599])
        await eventually(lambda: heard.backlog(names[0]) == heard.backlog(names[599]) == 1, timeout=30)
        assert observer.ticks - before < 40
        for name in names:
            observer.drop(key_of(name))
        assert len(observer) == 0


async def test_a_stream_that_never_rests_is_left_out(local, plain):
    async with observing(local, "hot", "calm") as (observer, heard):
        await all_watched(observer)
        stop = asyncio.Event()

        async def churn():
            while not stop.is_set():
                await plain.xadd("bull:hot:events", {"event": "completed"}, maxlen=100)

        churning = asyncio.create_task(churn())
        began, waits = time.monotonic(), observer.waits
        await eventually(lambda: time.monotonic() - began > 2, timeout=30)
        stop.set()
        await churning
        assert observer.waits - waits < 40
        await add(plain, "calm")
        await eventually(lambda: heard.backlog("calm") == 1, timeout=30)


async def test_a_delayed_job_is_seen_in_time_though_no_event_tells(local, plain):
    async with observing(local, "later") as (observer, heard):
        observer.expect(key_of("later"), 10_000)
        await all_watched(observer)
        now_ms = time.time_ns() // 1_000_000
        await plain.zadd("bull:later:delayed", {"1": (now_ms + 13_000) * 4096})
        await plain.xadd("bull:later:events", {"event": "delayed"})
        await eventually(lambda: heard.sights[key_of("later")].reading.delayed == 1, timeout=30)
        assert heard.sights[key_of("later")].reading.due == 0
        await eventually(lambda: heard.sights[key_of("later")].reading.due == 1, timeout=30)
        assert heard.sights[key_of("later")].reading.at_ms < now_ms + 13_000


async def test_a_queue_that_is_none_keeps_no_other_from_being_read(local, plain):
    async with observing(local, "good", "bad") as (observer, heard):
        await all_watched(observer)
        await plain.set("bull:bad:wait", "a string")
        observer.nudge(key_of("bad"))
        await eventually(lambda: key_of("bad") in heard.troubles, timeout=30)
        assert "WRONGTYPE" in heard.troubles[key_of("bad")]
        await add(plain, "good")
        await eventually(lambda: heard.backlog("good") == 1, timeout=30)
        await plain.delete("bull:bad:wait")
        await eventually(lambda: key_of("bad") not in heard.troubles, timeout=30)


async def test_a_stream_that_is_none_is_polled_with_its_neighbours_until_it_is_found_out(local, plain):
    async with observing(local, "good", "bad") as (observer, heard):
        await all_watched(observer)
        await plain.delete("bull:bad:events")
        await plain.set("bull:bad:events", "a string")
        await add(plain, "good")
        await eventually(lambda: heard.backlog("good") == 1, timeout=30)
        observer.nudge(key_of("bad"))
        await eventually(lambda: key_of("bad") in heard.troubles, timeout=30)


async def test_a_script_that_was_forgotten_is_told_again(local, plain):
    async with observing(local, "a") as (observer, heard):
        await all_watched(observer)
        await plain.script_flush()
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)


async def test_connections_that_are_cut_are_made_again(local, plain):
    async with observing(local, "a") as (observer, heard):
        await all_watched(observer)
        for client in await plain.client_list():
            if client["name"].startswith("bullpen:operator"):
                await plain.client_kill_filter(_id=client["id"])
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)
        await eventually(lambda: not heard.troubles, timeout=30)


@contextlib.asynccontextmanager
async def own(server, *names):
    local = LocalRedis(RedisSettings.of(server.url))
    plain = redis.asyncio.Redis.from_url(server.url)
    async with local.link:
        try:
            async with observing(local, *names) as (observer, heard):
                await all_watched(observer)
                yield observer, heard, plain
        finally:
            await plain.aclose()


async def test_a_redis_that_went_and_came_back_is_read_anew(redis_server):
    async with own(redis_server, "a", "b") as (_observer, heard, plain):
        await asyncio.to_thread(redis_server.kill)
        await eventually(lambda: len(heard.troubles) == 2, timeout=30)
        assert heard.sights[key_of("a")].reading.backlog == 0, "what was seen last stays what it was"
        await asyncio.to_thread(redis_server.restart)
        await eventually(lambda: not heard.troubles, timeout=30)
        await add(plain, "b")
        await eventually(lambda: heard.backlog("b") == 1, timeout=30)


async def test_hundreds_of_queues_are_watched_again_after_each_outage(redis_server):
    names = [f"q{number}" for number in range(600)]
    async with own(redis_server, *names) as (observer, heard, plain):
        for _ in range(2):
            await all_watched(observer)
            await asyncio.to_thread(redis_server.kill)
            await eventually(lambda: len(heard.troubles) == len(names), timeout=30)
            await asyncio.to_thread(redis_server.restart)
            await eventually(lambda: not heard.troubles, timeout=30)
        await all_watched(observer)
        for name in names:
            await add(plain, name)
        await eventually(lambda: all(heard.backlog(name) for name in names), timeout=20)


async def test_a_redis_that_lost_everything_wakes_us_all_the_same(redis_server):
    async with own(redis_server, "a") as (observer, heard, plain):
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)
        await plain.flushall()
        await eventually(lambda: heard.backlog("a") == 0, timeout=30)
        await all_watched(observer)
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)


async def test_a_frozen_redis_is_trouble_and_then_it_goes_on(redis_server):
    async with own(redis_server, "a") as (observer, heard, plain):
        redis_server.freeze()
        try:
            observer.nudge(key_of("a"))
            await eventually(lambda: key_of("a") in heard.troubles, timeout=30)
        finally:
            redis_server.thaw()
        await eventually(lambda: not heard.troubles, timeout=20)
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)


async def test_a_full_redis_is_read_all_the_same(redis_server):
    async with own(redis_server, "a") as (observer, heard, plain):
        await add(plain, "a", 3)
        await plain.config_set("maxmemory", 1)
        observer.nudge(key_of("a"))
        before = observer.readings
        await eventually(lambda: observer.readings > before + 1 and heard.backlog("a") == 3, timeout=30)
        assert not heard.troubles


async def test_what_is_asked_in_one_look(local, plain):
    keys = QueueKeys("bull", "emails")
    await local.run(GiveOrders(keys, {"pod@0123456789ab": Retiree("uid", 5)}), timeout=30)
    await local.run(Remember(keys, "{}"), timeout=30)
    await plain.hset(
        keys.workers, mapping={"pod@0123456789ab": '{"host":"pod","busy":2,"state":"retiring"}', "odd": "?"}
    )
    await plain.hset(keys.workers, "long", "x" * 10_000)
    assert (await local.run(Look(keys, 0, crew=False), timeout=30)).last_event == NOTHING_YET
    event = await plain.xadd(keys.events, {"event": "added"})
    sight = await local.run(Look(keys, 0, crew=True, memory=True), timeout=30)
    assert sight.last_event == event
    assert sight.remembered == b"{}"
    assert sight.roll is not None
    assert {worker.busy for worker in sight.roll.workers.values()} == {2}
    (order,) = sight.roll.orders.values()
    assert 25_000 < order.deadline_ms - sight.reading.at_ms <= 30_000
    assert (order.pod, order.start_ms) == ("uid", 5)


async def test_orders_are_heard_of_only_when_they_are_news(local, plain):
    keys = QueueKeys("bull", "emails")
    async with plain.pubsub() as pubsub:
        await pubsub.subscribe(keys.nudge)
        await pubsub.get_message(timeout=30)
        retire = {"pod@0123456789ab": Retiree("uid", 5)}
        assert await local.run(GiveOrders(keys, retire), timeout=30) == 1
        assert (await pubsub.get_message(timeout=30))["data"] == b"retiring"
        assert await local.run(GiveOrders(keys, retire), timeout=30) == 0
        assert await pubsub.get_message(timeout=0.05) is None
        assert await local.run(GiveOrders(keys, {}, ["pod@0123456789ab", "nobody"]), timeout=30) == 1
        assert (await pubsub.get_message(timeout=30))["data"] == b"retiring"
    assert await plain.hgetall(keys.retiring) == {}


async def test_more_workers_than_there_can_be_are_not_read(local, plain):
    keys = QueueKeys("bull", "emails")
    await plain.hset(keys.workers, mapping={f"w{number}": "{}" for number in range(2_001)})
    assert (await local.run(Look(keys, 0, crew=True), timeout=30)).roll is None


async def test_what_was_asked_earlier_and_comes_later_is_passed_over(local, plain, monkeypatch):
    """A poll and the reading after a wake go side by side; the older counts must not have the last word."""
    held, go_on = asyncio.Event(), asyncio.Event()
    exchange = local.exchange

    async def hold(packed, count, *, timeout):
        replies = await exchange(packed, count, timeout=timeout)
        if not held.is_set():
            held.set()
            await go_on.wait()
        return replies

    async with observing(local, "a") as (observer, heard):
        await all_watched(observer)
        monkeypatch.setattr(local, "exchange", hold)
        observer.nudge(key_of("a"))
        await held.wait()
        await add(plain, "a")
        await eventually(lambda: heard.backlog("a") == 1, timeout=30)
        decided, readings = len(heard.decisions), observer.readings
        go_on.set()
        await eventually(lambda: observer.readings > readings, timeout=30)
        await eventually(lambda: len(heard.decisions) > decided, timeout=30)
        assert {backlog for _, backlog in heard.decisions[decided:]} == {1}
