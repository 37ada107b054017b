"""What no honest producer writes, next to honest jobs: the honest ones complete, and no process dies of the rest."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from bullpen import Client
from bullpen.errors import ConfigurationError, PayloadTooLarge
from tests.chaos import proving, recorded
from tests.chaos.conftest import KEYS
from tests.support.waiting import eventually_sync

DEEP = "[" * 200_000
GARBAGE = {
    "empty": b"",
    "binary": b"\xff\x00\xfe",
    "words": b"not a number",
    "huge": b"1e400",
    "negative": b"-1",
    "digits": b"9" * 400,
    "deep": DEEP.encode(),
    "half": b'{"a":',
    "list": b"[1,2]",
    "null": b"null",
}
FIELDS = [
    "name", "data", "opts", "timestamp", "delay", "priority", "atm", "ats", "stc", "pb", "parentKey", "parent", "rjk", "nrjid", "deid", "progress", "stacktrace", "failedReason", "returnvalue", "processedOn", "finishedOn", "bullpen:snoozes", "bullpen:company", "bullpen:suspect", "bullpen:crashes", "bullpen:deaths", "bullpen:unknown", "bullpen:error",
]  # fmt: skip
OPTS = [
    '{"attempts":1e308}',
    '{"attempts":-5}',
    '{"attempts":"x"}',
    '{"attempts":1' + "0" * 5000 + "}",
    '{"backoff":{"type":["x"]}}',
    '{"attempts":3,"backoff":{"type":"exponential","delay":1e308}}',
    '{"attempts":3,"backoff":{"type":"fixed","delay":-7}}',
    '{"attempts":3,"backoff":"soon"}',
    '{"attempts":3,"backoff":{"type":"custom","delay":{}}}',
    '{"delay":1e400}',
    '{"delay":NaN}',
    '{"bullpen":[]}',
    '{"bullpen":{"p":[],"timeout":1e308,"v":1e308,"expires":-1,"backoff":{},"policy":[]}}',
    '{"bullpen":{"timeout":"soon","v":{},"expires":"x","backoff":7,"policy":7}}',
    '{"bullpen":{"policy":",,,attempts*,backoff*,priority"}}',
    '{"removeOnComplete":{"age":"x","count":{}}}',
    '{"removeOnComplete":{"age":-1e300,"count":1e308}}',
    '{"removeOnComplete":-5,"removeOnFail":-5}',
    '{"removeOnFail":{"age":-1e300},"attempts":1}',
    '{"removeOnFail":"x","attempts":1}',
    '{"keepLogs":1e308}',
    '{"kl":[]}',
    '{"fpof":1,"cpof":1,"idof":1,"rdof":1}',
    '{"de":{"id":{}}}',
    '{"parent":{"id":"x","queue":"bull:none"}}',
    '{"repeat":{"every":"x","count":-1}}',
    '{"tm":[[]]}',
    '{"bullpen":' * 100_000,
    DEEP,
    "[]",
    "7",
    '"text"',
    '{"attempts":3,"attempts":null}',
    "\ufeff{}",
]


def put(lab, job_id, **fields):
    """Add a job as somebody does who writes to Redis by hand."""
    now = int(time.time() * 1000)
    honest = {"name": "plain", "data": '{"n":1}', "opts": '{"attempts":1}', "timestamp": now, "delay": 0, "priority": 0}
    pipe = lab.redis.pipeline()
    pipe.hset(KEYS.job(job_id), mapping=honest | fields)
    pipe.lpush(KEYS.wait, job_id)
    pipe.zadd(KEYS.marker, {"0": 0})
    pipe.execute()
    return job_id


def survive(lab, bad, *, honest, within_s=60):
    """Run the honest jobs to their ends, and see that nothing of the worker died and nothing is left running."""
    worker = proving.work(lab, concurrency=10).ready()
    [child] = worker.children()
    eventually_sync(
        lambda: all(lab.redis.zscore(KEYS.completed, handle.id) is not None for handle in honest), within_s, every=0.05
    )
    eventually_sync(lambda: not lab.count("active"), 20, every=0.05)
    assert worker.process.poll() is None
    assert worker.children() == [child]
    assert worker.probe()[0] == 200
    assert {lab.job(handle.id)["atm"] for handle in honest} == {"1"}
    times = {job_id: len(each) for job_id, each in proving.runs(lab).items()}
    assert all(times.get(job_id, 0) <= 5 for job_id in bad), times
    return worker


def test_garbage_in_every_field_of_a_job(lab):
    """But for the one thing that BullMQ's own Lua blocks Redis with: a key of the parent of 200,000 characters."""
    bad, honest = [], []
    for field, (what, value) in itertools.product(FIELDS, GARBAGE.items()):
        if field == "parentKey" and what == "deep":
            continue
        bad += [put(lab, f"{field}-{what}-{name}", **({"name": name} | {field: value})) for name in ("plain", "fail")]
        honest.append(lab.client.enqueue(recorded.plain.job({"n": 1})))
    survive(lab, bad, honest=honest)


def test_poison_in_the_options(lab):
    bad, honest = [], []
    for number, opts in enumerate(OPTS):
        bad += [put(lab, f"poison-{number}-{name}", name=name, opts=opts) for name in ("plain", "fail", "typed")]
        honest.append(lab.client.enqueue(recorded.plain.job({"n": 1})))
    survive(lab, bad, honest=honest)


def malformed(lab, number):
    """Put something into the queue that is hardly a job."""
    job_id = f"malformed-{number}"
    match number % 6:
        case 0:
            lab.redis.lpush(KEYS.wait, job_id)  # no hash at all
        case 1:
            lab.redis.set(KEYS.job(job_id), "a string")
            lab.redis.lpush(KEYS.wait, job_id)
        case 2:
            lab.redis.rpush(KEYS.job(job_id), "a list")
            lab.redis.lpush(KEYS.wait, job_id)
        case 3:
            put(lab, job_id, data="{")
        case 4:
            put(lab, job_id, name="typed", data='{"number":"x"}')
        case _:
            lab.redis.hset(KEYS.job(job_id), "ats", "x")
            lab.redis.lpush(KEYS.wait, job_id)
    return job_id


def malformed_beside_honest(lab, count, *, within_s):
    bad, honest = [], []
    for number in range(count):
        bad.append(malformed(lab, number))
        if number % 5 == 0:
            honest.append(lab.client.enqueue(recorded.plain.job({"n": number})))
    survive(lab, bad, honest=honest, within_s=within_s)


def test_malformed_jobs_next_to_honest_ones(lab):
    malformed_beside_honest(lab, 120, within_s=60)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_thousands_of_malformed_jobs_next_to_honest_ones(lab):
    malformed_beside_honest(lab, 6000, within_s=200)


# -- payloads --------------------------------------------------------------------------------------------------------


def received(lab):
    return lab.redis.info("stats")["total_net_input_bytes"]


def test_a_payload_of_100_megabytes_is_refused_before_it_is_sent(lab):
    huge = recorded.plain.job("x" * 100_000_000)
    small = recorded.plain.job("x")

    async def by_the_async_client():
        async with Client(lab.server.url) as client:
            with pytest.raises(PayloadTooLarge):
                await client.enqueue(huge)
            with pytest.raises(PayloadTooLarge):
                await client.enqueue_many([small, huge])

    with pytest.raises(PayloadTooLarge, match=r"100000002 bytes.*262144"):
        lab.client.enqueue(huge)
    with pytest.raises(PayloadTooLarge):
        lab.client.enqueue_many([small, huge])
    asyncio.run(by_the_async_client())
    assert lab.redis.info("stats")["total_net_input_bytes"] < 1_000_000
    assert lab.count("wait") == 0


# -- what else lies in Redis --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doc", ["{", "[]", "{}" * 9, '{"retry":7}', DEEP, "\x00", '{"timeout":"soon"}'])
def test_a_policy_that_cannot_be_read_stops_no_worker_and_is_told_to_clients(lab, doc):
    handle = lab.client.enqueue(recorded.plain.job({"n": 1}))
    lab.redis.hset(KEYS.policy, mapping={"v": "1", "rev": "other", "doc": doc})
    worker = proving.work(lab).ready()
    eventually_sync(lambda: proving.completed(lab, 1))
    assert lab.job(handle.id)["atm"] == "1"
    assert worker.process.poll() is None
    with pytest.raises(ConfigurationError, match="policy in Redis cannot be read"):
        lab.client.enqueue(recorded.plain.job({"n": 2}))


def test_keys_of_ours_that_hold_garbage(lab):
    garbage = {"me@0123456789ab": "{", "you@0123456789ab": DEEP, "": "", "x": '{"v":1,"at":"soon","deadline":{}}'}
    for key in (KEYS.workers, KEYS.retiring, KEYS.cancelled):
        lab.redis.hset(key, mapping=garbage)
    lab.redis.publish(KEYS.nudge, DEEP)
    worker = proving.work(lab).ready()
    handle = lab.client.enqueue(recorded.plain.job({"n": 1}))
    eventually_sync(lambda: proving.completed(lab, 1))
    for key in (KEYS.workers, KEYS.retiring, KEYS.cancelled):
        lab.redis.hset(key, mapping={handle.id: DEEP, **garbage})
    lab.redis.publish(KEYS.nudge, "\x00")
    lab.client.enqueue(recorded.plain.job({"n": 2}))
    eventually_sync(lambda: proving.completed(lab, 2))
    assert worker.process.poll() is None
    assert worker.probe()[0] == 200
