"""Schedules that a JobQueue declares: written, left alone while they are the same, advanced, removed while they are ours."""

import contextlib
import json
import struct
import time

import pytest

from bullpen.api import files
from bullpen.errors import BullpenError
from bullpen.queue import schedules
from bullpen.queue.declaration import OwnedElsewhere, Owner, WriteDeclaration, declare
from bullpen.queue.ending import QueueBusy, ReleaseQueue, purge
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import do
from bullpen.queue.records import StoredJob

KEYS = QueueKeys("bull", "emails")
OWNER = Owner("laptop", "me", "emails")
NOW = int(time.time() * 1000)

DIGEST = '{name: digest, cron: "0 8 * * 1", timeZone: Europe/Berlin, job: weekly-digest, data: {since: 7}}'
SWEEP = "{name: sweep, every: 5m, job: sweep}"


@pytest.fixture
def apply(client):
    async def apply(*wanted, now_ms=NOW, spec=""):
        text = (
            "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {name: emails}\n"
            f"spec: {{schedules: [{', '.join(wanted)}]{spec}}}\n"
        )
        loaded = files.loads(text)
        assert not loaded.findings
        declaration = WriteDeclaration.of(loaded.jobqueues[0], KEYS, OWNER)
        return [name for name in await client._session.run(declare(declaration, now_ms)) if name != "policy"]

    return apply


def runs(raw):
    return raw.zrange(KEYS.delayed, 0, -1) + raw.lrange(KEYS.wait, 0, -1)


async def test_a_schedule_has_one_run_to_come(apply, raw):
    assert await apply(DIGEST) == ["schedule digest"]
    (run,) = runs(raw)
    next_ms = int(raw.zscore(KEYS.repeat, "digest"))
    assert run == f"repeat:digest:{next_ms}"
    when = time.gmtime(next_ms / 1000)
    assert when.tm_wday == 0
    assert next_ms > NOW
    job = raw.hgetall(KEYS.job(run))
    assert (job["name"], job["rjk"], json.loads(job["data"])) == ("weekly-digest", "digest", {"since": 7})
    opts = json.loads(job["opts"])
    assert opts["repeat"] == {"pattern": "0 8 * * 1", "tz": "Europe/Berlin", "count": 1}
    assert opts["attempts"] == 3  # the policy's, for Node
    assert opts["bullpen"]["policy"].startswith("attempts,")


async def test_a_schedule_that_is_the_same_keeps_its_run(apply, raw):
    await apply(DIGEST, SWEEP)
    before = sorted(runs(raw))
    assert await apply(DIGEST, SWEEP, now_ms=NOW + 1000) == []
    assert sorted(runs(raw)) == before


async def test_a_schedule_that_changed_is_written_anew(apply, raw):
    await apply(DIGEST)
    assert await apply(DIGEST.replace("0 8", "0 9")) == ["schedule digest"]
    (run,) = runs(raw)
    assert raw.hget(KEYS.scheduler("digest"), "pattern") == "0 9 * * 1"
    assert run == f"repeat:digest:{int(raw.zscore(KEYS.repeat, 'digest'))}"
    assert await apply(DIGEST.replace("0 8", "0 9"), spec=", retry: {attempts: 9}") == ["schedule digest"]
    assert json.loads(raw.hget(KEYS.job(runs(raw)[0]), "opts"))["attempts"] == 9


@pytest.mark.parametrize("wanted", [(), (DIGEST.replace("name: digest", "name: digest, suspend: true"),)])
async def test_a_schedule_that_is_gone_or_suspended_is_removed(wanted, apply, raw):
    await apply(DIGEST, SWEEP)
    assert await apply(*wanted, SWEEP) == ["schedule digest"]
    assert raw.zrange(KEYS.repeat, 0, -1) == ["sweep"]
    assert not raw.exists(KEYS.scheduler("digest"))
    assert [run for run in runs(raw) if "digest" in run] == []
    assert "schedule:digest" not in raw.hgetall(KEYS.owned)


async def test_a_schedule_that_somebody_else_changed_is_left(apply, raw):
    await apply(DIGEST)
    raw.hset(KEYS.scheduler("digest"), "pattern", "0 3 * * *")
    assert await apply() == []
    assert raw.zrange(KEYS.repeat, 0, -1) == ["digest"]
    assert await apply() == []


async def test_schedules_of_others_are_left(apply, raw):
    raw.zadd(KEYS.repeat, {"of-node": 1})
    raw.hset(KEYS.scheduler("of-node"), mapping={"name": "x", "ic": "1"})
    await apply(SWEEP)
    await apply()
    assert raw.zrange(KEYS.repeat, 0, -1) == ["of-node"]


async def test_one_that_lost_its_run_is_written_again(apply, raw):
    await apply(SWEEP)
    raw.zrem(KEYS.repeat, "sweep")
    assert await apply(SWEEP) == ["schedule sweep"]


def stored(raw, job_id):
    fields = raw.hgetall(KEYS.job(job_id))
    return StoredJob(job_id, {name.encode(): value.encode() for name, value in fields.items()})


@pytest.mark.parametrize("schedule", [DIGEST, SWEEP])
async def test_the_worker_writes_the_next_run_once(schedule, apply, raw, client):
    await apply(schedule)
    (run,) = runs(raw)
    at = int(run.rpartition(":")[2])
    steps = schedules.advance(KEYS, stored(raw, run), at + 5)
    assert steps is not None
    following = await client._session.perform(steps)
    assert following is not None
    between = int(following.rpartition(":")[2]) - at
    assert between == (300_000 if schedule is SWEEP else pytest.approx(7 * 86_400_000, abs=3_600_000))
    assert sorted(runs(raw)) == sorted([run, following])
    assert stored(raw, following).opts["repeat"]["count"] == 2
    assert await client._session.perform(steps) is None  # a worker whose job had stalled comes late
    assert len(runs(raw)) == 2


async def test_a_schedule_of_node_ends_by_its_limit_or_date(raw):
    def job(**repeat):
        return StoredJob("repeat:a:1", {b"rjk": b"a", b"opts": json.dumps({"repeat": repeat}).encode()})

    assert schedules.advance(KEYS, job(every=1000, count=3, limit=3), NOW) is None
    assert schedules.advance(KEYS, job(every=1000, count=2, limit=3), NOW) is not None
    assert schedules.advance(KEYS, job(pattern="* * * * *", endDate=NOW - 1), NOW) is None
    assert schedules.advance(KEYS, StoredJob("7", {}), NOW) is None


@pytest.mark.parametrize(
    "opts",
    [
        '{"repeat": {"pattern": "* * * * *", "startDate": 1e20, "count": 1e300}}',
        '{"repeat": {"pattern": "* * * * *", "startDate": 9e15, "limit": 1e999, "endDate": -1e999}, "prevMillis": 1e25}',
        '{"repeat": {"pattern": "* * * * *"}, "prevMillis": NaN}',
        '{"repeat": {"every": 1000}, "much": 123456789012345678901234567890, "half": "\\ud800"}',
        '{"repeat": {"every": 1000}, "deep": ' + "[" * 600 + "]" * 600 + "}",
    ],
)
async def test_odd_numbers_of_a_schedule_of_node_break_nothing(opts):
    job = StoredJob("repeat:a:1", {b"rjk": b"a", b"opts": opts.encode()})
    with contextlib.suppress(BullpenError):
        following = schedules.advance(KEYS, job, NOW)
        assert following is None or following.commands()


async def test_a_number_of_node_beyond_64_bits_is_sent_as_node_sends_it():
    job = StoredJob(
        "repeat:a:1", {b"rjk": b"a", b"opts": b'{"repeat": {"every": 1000}, "much": 100000000000000000000}'}
    )
    (call,) = schedules.advance(KEYS, job, NOW).commands()
    assert any(isinstance(word, bytes) and struct.pack(">d", 1e20) in word for word in call.args)


async def test_a_released_queue_is_taken_by_the_next(apply, client, raw):
    await apply(SWEEP)
    other = Owner("cluster", "shop", "emails")
    text = "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {name: emails}\nspec: {}\n"
    theirs = WriteDeclaration.of(files.loads(text).jobqueues[0], KEYS, other)
    with pytest.raises(OwnedElsewhere):
        await client._session.run(declare(theirs, NOW))
    assert not await client._session.perform(ReleaseQueue(KEYS, other))
    assert await client._session.perform(ReleaseQueue(KEYS, OWNER))
    await client._session.run(declare(theirs, NOW))
    assert raw.hget(KEYS.owner, "id") == other.id


async def test_a_queue_is_removed_with_all_that_is_in_it(apply, client, raw, finish):
    await apply(SWEEP, DIGEST)
    queue = client.queue("emails")
    running = await queue.enqueue("x")
    await queue.enqueue("x", {}, delay="1h")
    finish((await queue.enqueue("y")).id, "failed", "oh")
    finish.start(running.id)
    with pytest.raises(OwnedElsewhere):
        await client._session.run(purge(KEYS, Owner("cluster", "shop", "emails")))
    with pytest.raises(QueueBusy):
        await client._session.run(purge(KEYS, OWNER))
    finish(running.id, "completed", "null")
    await client._session.run(purge(KEYS, OWNER))
    assert list(raw.scan_iter("*")) == []


def test_steps_can_be_run_alone():
    steps = do(ReleaseQueue(KEYS, OWNER))
    assert next(steps) == ReleaseQueue(KEYS, OWNER)
