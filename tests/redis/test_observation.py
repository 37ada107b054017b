"""The observation of a queue, against a real Redis."""

import time

import pytest
import redis

from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import FIELDS, LATEST_MS, Observe, Reading, UnreadableQueue

KEYS = QueueKeys("bull", "emails")


def read(client: redis.Redis, horizon_ms: int = 5_000) -> Reading:
    operation = Observe(KEYS, horizon_ms)
    (call,) = operation.commands()
    return operation.read([client.eval(call.script.source, len(call.keys), *call.keys, *call.args)])


@pytest.fixture
def client(bullpen_redis):
    client = redis.Redis.from_url(bullpen_redis)
    yield client
    client.close()


def job(client, job_id, *, age_ms, **fields):
    now = time.time_ns() // 1_000_000
    client.hset(KEYS.job(job_id), mapping={"timestamp": now - age_ms, "opts": "{}", **fields})


def test_an_unknown_queue_is_empty(client):
    reading = read(client)
    assert (reading.backlog, reading.active, reading.delayed, reading.oldest_ms) == (0, 0, 0, None)
    assert reading.total_concurrency is None
    assert reading.finished_total is None


def test_counts_each_state(client):
    client.lpush(KEYS.wait, "1", "2", "3")
    client.lpush(KEYS.paused, "4")
    client.zadd(KEYS.prioritized, {"5": 1, "6": 2})
    client.lpush(KEYS.active, "7")
    client.zadd(KEYS.completed, {"8": 1})
    client.zadd(KEYS.failed, {"9": 1, "10": 2})
    client.hset(KEYS.metrics_completed, "count", 70)
    reading = read(client)
    assert (reading.waiting, reading.paused_waiting, reading.prioritized, reading.backlog) == (3, 1, 2, 6)
    assert (reading.active, reading.completed, reading.failed) == (1, 1, 2)
    assert reading.finished_total == 70


def test_due_are_the_delayed_within_the_horizon(client):
    now = time.time_ns() // 1_000_000
    client.zadd(KEYS.delayed, {"a": (now + 1_000) * 4096 + 7, "b": (now + 60_000) * 4096, "c": (now - 5) * 4096})
    assert (read(client).due, read(client).delayed) == (2, 3)
    assert read(client).next_due_ms == now - 5
    assert read(client, horizon_ms=120_000).due == 3


def test_a_schedules_next_run_is_told_apart(client):
    now = time.time_ns() // 1_000_000
    client.zadd(KEYS.repeat, {"digest": now + 2_000, "sweep": now + 600_000})
    assert read(client).scheduled == 1


def test_limits_and_pause_come_from_meta(client):
    client.hset(KEYS.meta, mapping={"paused": 1, "concurrency": 7, "max": 10, "duration": 1000})
    client.set(KEYS.limiter, 3, px=60_000)
    reading = read(client)
    assert (reading.paused, reading.total_concurrency, reading.rate_jobs, reading.rate_per_ms) == (True, 7, 10, 1000)
    assert 50_000 < (reading.limited_for_ms or 0) <= 60_000


@pytest.mark.parametrize(
    ("fields", "waited_ms"),
    [
        ({}, 90_000),
        ({"opts": '{"delay": 60000}'}, 30_000),
        ({"processedOn": "{now}-10000"}, 10_000),
        ({"opts": "no json"}, 90_000),
        ({"opts": '{"delay": "soon"}'}, 90_000),
    ],
    ids=["plain", "was delayed", "was tried before", "damaged options", "odd delay"],
)
def test_the_oldest_job_waits_since_it_could_start(client, fields, waited_ms):
    now = time.time_ns() // 1_000_000
    fields = {name: str(now - 10_000) if value == "{now}-10000" else value for name, value in fields.items()}
    job(client, "1", age_ms=90_000, **fields)
    job(client, "2", age_ms=5_000)
    client.lpush(KEYS.wait, "1", "2")
    oldest = read(client).oldest_ms
    assert oldest is not None
    assert abs(now - oldest - waited_ms) < 5_000


def test_a_job_without_a_hash_has_no_age(client):
    client.lpush(KEYS.wait, "ghost")
    assert read(client).oldest_ms is None


def test_a_prioritized_job_that_waits_longer_is_the_oldest(client):
    job(client, "1", age_ms=1_000)
    job(client, "2", age_ms=50_000)
    client.lpush(KEYS.wait, "1")
    client.zadd(KEYS.prioritized, {"2": 1})
    oldest = read(client).oldest_ms
    assert oldest is not None
    assert time.time_ns() // 1_000_000 - oldest > 40_000


def test_what_is_no_queue_is_an_error_and_not_a_zero(client):
    client.set(KEYS.wait, "somebody else's")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        read(client)
    with pytest.raises(UnreadableQueue, match="numbers"):
        Reading.parse([1, 2, 3])
    with pytest.raises(UnreadableQueue, match="waiting is no number"):
        Reading.parse([1, b"x", *[0] * 18])


@pytest.mark.parametrize("at_ms", [-1, LATEST_MS + 1, 2**63 - 1])
def test_what_is_no_time_is_not_taken_for_one(at_ms):
    with pytest.raises(UnreadableQueue, match="time of now"):
        Reading.parse([at_ms, *[0] * (len(FIELDS) - 1)])


def test_what_is_due_after_all_time_is_due_at_its_end():
    values = dict.fromkeys(FIELDS, 0) | {"next_due_ms": 2**63 - 1, "oldest_ms": 2**63 - 1}
    read = Reading.parse([values[name] for name in FIELDS])
    assert (read.next_due_ms, read.oldest_ms) == (LATEST_MS, LATEST_MS)


def test_joined_with_the_workers_it_is_what_a_decision_needs(client):
    client.lpush(KEYS.wait, "1", "2")
    client.lpush(KEYS.paused, "3")
    client.hset(KEYS.meta, mapping={"max": 10, "duration": 1000})
    client.hset(KEYS.metrics_completed, "count", 5)
    observed = read(client).observed(replicas=2, ready=1, starting=1, busy=1, startup_ms=900)
    assert (observed.waiting, observed.replicas, observed.starting) == (3, 2, 1)
    assert observed.rate_limit is not None
    assert observed.rate_limit.jobs_per_ms == pytest.approx(0.01)
    assert observed.added_total == 8
