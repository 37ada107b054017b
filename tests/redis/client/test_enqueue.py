"""Enqueueing: ids, batches, the policy obeyed at once, what is refused before anything is written."""

import asyncio
import contextlib
import json

import pytest

from bullpen import (
    Deduplication,
    EnqueueError,
    JobSpec,
    JobType,
    OptionInvalid,
    PayloadInvalid,
    PayloadTooLarge,
    QueueClosed,
    QueueFull,
)
from bullpen.queue.operations.adding import BATCH

KEY = "bull:emails"


def specs(count, **options):
    return [JobSpec.by_name("welcome", {"n": n}).with_options(**options) for n in range(count)]


async def test_a_job_is_there_when_enqueue_returns(client, raw):
    handle = await client.queue("emails").enqueue("welcome", {"userId": 7})
    assert raw.lrange(f"{KEY}:wait", 0, -1) == [handle.id]
    assert json.loads(raw.hget(f"{KEY}:{handle.id}", "data")) == {"userId": 7}


async def test_a_contract_says_the_queue(client, raw):
    charge = JobType("charge", queue="payments", data=dict[str, int])
    handle = await client.enqueue(charge.job({"cents": 5}))
    assert (handle.queue, raw.llen("bull:payments:wait")) == ("payments", 1)
    other = await client.queue("emails").enqueue(charge.job({"cents": 5}))
    assert other.queue == "emails"
    with pytest.raises(OptionInvalid, match=r"client\.queue"):
        await client.enqueue(JobSpec.by_name("charge"))


async def test_an_id_that_is_there_already_is_given_again(client, raw):
    queue = client.queue("emails")
    first = await queue.enqueue("welcome", {"n": 1}, job_id="mine")
    second = await queue.enqueue("welcome", {"n": 2}, job_id="mine")
    assert first.id == second.id == "mine"
    assert (raw.llen(f"{KEY}:wait"), json.loads(raw.hget(f"{KEY}:mine", "data"))) == (1, {"n": 1})


async def test_a_duplicate_gives_the_handle_of_the_first(client):
    queue = client.queue("emails")
    first = await queue.enqueue("welcome", {}, deduplication=Deduplication.simple("d"))
    second = await queue.enqueue("welcome", {}, deduplication=Deduplication.simple("d"))
    assert first.id == second.id


async def test_thousands_in_bulk_keep_their_order(client, raw):
    handles = await client.queue("emails").enqueue_many(specs(3 * BATCH + 7))
    assert [handle.id for handle in handles] == raw.lrange(f"{KEY}:wait", 0, -1)[::-1]
    assert [json.loads(raw.hget(f"{KEY}:{handles[n].id}", "data"))["n"] for n in (0, BATCH, 3 * BATCH + 6)] == [
        0,
        BATCH,
        3 * BATCH + 6,
    ]


async def test_a_bulk_of_all_kinds_for_several_queues(client):
    jobs = [
        JobSpec.by_name("a", queue="emails"),
        JobSpec.by_name("b", queue="other").with_options(delay="1h"),
        JobSpec.by_name("c", queue="emails").with_options(priority=3),
        JobSpec.by_name("d", queue="emails").with_options(delay="1h"),
    ]
    handles = await client.enqueue_many(jobs)
    assert [handle.queue for handle in handles] == ["emails", "other", "emails", "emails"]
    assert [(await handle.info()).name for handle in handles] == ["a", "b", "c", "d"]
    counts = await client.queue("emails").counts()
    assert (counts["waiting"], counts["prioritized"], counts["delayed"]) == (1, 1, 1)
    assert await client.enqueue_many([]) == []


async def test_nothing_of_a_bulk_is_written_when_one_of_it_is_refused(client, raw, set_policy):
    set_policy(limits={"payloadBytes": 50})
    jobs = [*specs(BATCH), JobSpec.by_name("large", {"text": "x" * 100})]
    with pytest.raises(PayloadTooLarge, match="large"):
        await client.queue("emails").enqueue_many(jobs)
    assert not raw.exists(f"{KEY}:wait")
    with pytest.raises(TypeError, match=r"\.job"):
        await client.queue("emails").enqueue_many(["welcome"])


REFUSED = {
    "closed": ({"closed": True}, {}, QueueClosed),
    "schema": ({"payloadSchema": {"required": ["userId"]}}, {}, PayloadInvalid),
    "size": ({"limits": {"payloadBytes": 1}}, {}, PayloadTooLarge),
    "level": ({"priorities": {"levels": {"low": 9}, "default": "low"}}, {"priority": "high"}, OptionInvalid),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_change_of_the_policy_is_obeyed_by_the_next_enqueue(name, client, raw, set_policy):
    spec, options, error = REFUSED[name]
    queue = client.queue("emails")
    await queue.enqueue("welcome")  # the policy is remembered from here on: there is none
    set_policy(**spec)
    with pytest.raises(error):
        await queue.enqueue("welcome", {}, **options)
    with pytest.raises(error):
        await queue.enqueue_many([JobSpec.by_name("welcome").with_options(**options)] * 2)
    assert raw.llen(f"{KEY}:wait") == 1
    set_policy()  # and allowed again
    if name != "level":
        await queue.enqueue("welcome", {}, **options)
        assert raw.llen(f"{KEY}:wait") == 2


async def test_a_policy_that_is_new_is_written_into_the_job(client, raw, set_policy):
    queue = client.queue("emails")
    await queue.enqueue("welcome")
    set_policy(retry={"attempts": 9})
    handle = await queue.enqueue("welcome")
    assert json.loads(raw.hget(f"{KEY}:{handle.id}", "opts"))["attempts"] == 9


async def test_a_revision_without_a_policy_is_no_endless_search(client, raw):
    raw.hset(f"{KEY}:bullpen:policy", "rev", "of what somebody has removed by hand")
    await client.queue("emails").enqueue("welcome")
    assert raw.llen(f"{KEY}:wait") == 1


async def test_a_full_queue_refuses(client, raw, set_policy):
    set_policy(limits={"waiting": 3})
    queue = client.queue("emails")
    await queue.enqueue_many(specs(2))
    with pytest.raises(QueueFull, match=r"3 jobs may wait"):
        await queue.enqueue_many(specs(2))
    await queue.enqueue("welcome", {}, priority=1)
    with pytest.raises(QueueFull):
        await queue.enqueue("welcome")
    await queue.enqueue("welcome", {}, delay="1h")  # does not wait yet
    counts = await queue.counts()
    assert (counts["waiting"], counts["prioritized"], counts["delayed"]) == (2, 1, 1)


async def test_a_bulk_that_no_longer_fits_says_how_much_of_it_was_added(client, set_policy):
    set_policy(limits={"waiting": BATCH})
    with pytest.raises(QueueFull) as caught:
        await client.queue("emails").enqueue_many(specs(BATCH + 1))
    assert caught.value.__notes__ == [f"the first {BATCH} of {BATCH + 1} jobs had been added"]


async def test_a_full_queue_drops_the_oldest(client, raw, set_policy):
    set_policy(limits={"waiting": 3, "onFull": "DropOldest"})
    queue = client.queue("emails")
    old = [await queue.enqueue("old", {}, deduplication=Deduplication.simple(f"d{n}")) for n in range(3)]
    await old[0].logs()
    new = await queue.enqueue_many(specs(2))
    assert raw.lrange(f"{KEY}:wait", 0, -1)[::-1] == [old[2].id, new[0].id, new[1].id]
    assert not raw.exists(f"{KEY}:{old[0].id}", f"{KEY}:de:d0")
    removed = [fields for _, fields in raw.xrange(f"{KEY}:events") if fields["event"] == "removed"]
    assert removed == [{"event": "removed", "jobId": handle.id, "prev": "wait"} for handle in old[:2]]


@pytest.mark.parametrize("on_full", ["Reject", "DropOldest"])
async def test_what_is_there_already_takes_no_room_in_a_full_queue(on_full, client, raw, set_policy):
    """A repeated enqueue adds nothing: it is not refused, and nobody has to go for it."""
    set_policy(limits={"waiting": 4, "onFull": on_full})
    queue = client.queue("emails")
    mine = [JobSpec.by_name("mine").with_options(job_id=f"mine-{n}") for n in range(2)]
    once = Deduplication.simple("once"), Deduplication.throttle("a while", "1h")
    first = await queue.enqueue_many(mine)
    first += [await queue.enqueue("alike", {}, deduplication=each, priority=3) for each in once]
    for _ in range(2):
        assert [each.id for each in await queue.enqueue_many(mine)] == [each.id for each in first[:2]]
        assert (await queue.enqueue("mine", {}, job_id="mine-1")).id == "mine-1"
        again = [await queue.enqueue("alike", {}, deduplication=each, priority=3) for each in once]
        assert [each.id for each in again] == [each.id for each in first[2:]]
        set_policy(limits={"waiting": 2, "onFull": on_full})  # fewer than there are
    assert (await queue.counts())["waiting"] == (await queue.counts())["prioritized"] == 2


async def test_a_duplicate_among_newcomers_keeps_its_job_and_they_have_no_more_room_for_it(client, raw, set_policy):
    set_policy(limits={"waiting": 3, "onFull": "DropOldest"})
    queue = client.queue("emails")
    mine = JobSpec.by_name("mine").with_options(job_id="mine")
    old = await queue.enqueue_many([mine, *specs(2)])
    new = await queue.enqueue_many([mine, *specs(1)])
    assert raw.lrange(f"{KEY}:wait", 0, -1)[::-1] == ["mine", old[2].id, new[1].id]
    debounced = Deduplication.debounce("d", "1h")
    await queue.enqueue("x", {}, deduplication=debounced)
    last = await queue.enqueue("x", {}, deduplication=debounced, delay="0s")  # replaces one that was delayed: it comes
    assert raw.lrange(f"{KEY}:wait", 0, -1)[::-1] == [old[2].id, new[1].id, last.id]


async def test_of_priorities_the_least_urgent_goes_first(client, raw, set_policy):
    set_policy(limits={"waiting": 4, "onFull": "DropOldest"})
    queue = client.queue("emails")
    urgent = await queue.enqueue("x", {}, priority=1)
    first = await queue.enqueue("x", {}, priority=9)
    second = await queue.enqueue("x", {}, priority=9)
    plain = await queue.enqueue("x")
    new = await queue.enqueue("x", {}, priority=9)
    assert raw.zrange(f"{KEY}:prioritized", 0, -1) == [urgent.id, second.id, new.id]
    third = await queue.enqueue_many(specs(3))
    assert not raw.exists(f"{KEY}:{first.id}")
    assert raw.zrange(f"{KEY}:prioritized", 0, -1) == []
    assert raw.lrange(f"{KEY}:wait", 0, -1)[::-1] == [plain.id, *(handle.id for handle in third)]


async def test_children_and_runs_of_schedules_are_never_dropped(client, raw, set_policy):
    set_policy(limits={"waiting": 2, "onFull": "DropOldest"})
    queue = client.queue("emails")
    handles = await queue.enqueue_many(specs(2))
    raw.hset(f"{KEY}:{handles[0].id}", "parentKey", "bull:other:1")
    raw.hset(f"{KEY}:{handles[1].id}", "rjk", "daily")
    with pytest.raises(QueueFull):
        await queue.enqueue("x")
    assert raw.llen(f"{KEY}:wait") == 2


async def test_many_at_once_never_pass_the_limit(client, set_policy):
    set_policy(limits={"waiting": 20})
    queue = client.queue("emails")
    done = await asyncio.gather(*(queue.enqueue("x", {"n": n}) for n in range(60)), return_exceptions=True)
    assert sum(isinstance(each, QueueFull) for each in done) == 40
    assert (await queue.counts())["waiting"] == 20


async def test_middleware_goes_around_each_enqueue(bullpen_redis):
    from bullpen import Client

    seen = []

    @contextlib.contextmanager
    def tagged(job):
        try:
            yield job.with_options(priority=3)
        except EnqueueError as error:
            seen.append(type(error).__name__)
            raise
        else:
            seen.append(job.name)

    async with Client(bullpen_redis, middleware=[tagged]) as client:
        queue = client.queue("emails")
        handle = await queue.enqueue("one")
        await queue.enqueue_many([JobSpec.by_name("two"), JobSpec.by_name("three")])
        with pytest.raises(OptionInvalid):
            await queue.enqueue("four", {}, job_id="7")
        assert (await handle.info()).priority == 3
    assert sorted(seen) == ["OptionInvalid", "one", "three", "two"]


async def test_a_middleware_that_swallows_the_error_is_an_error(bullpen_redis):
    from bullpen import Client

    async with Client(bullpen_redis, middleware=[swallowing]) as client:
        with pytest.raises(EnqueueError, match="swallowed an error, so there is no job to give: job_id: '7'") as caught:
            await client.queue("emails").enqueue("x", {}, job_id="7")
        assert isinstance(caught.value.__cause__, OptionInvalid)


@contextlib.contextmanager
def swallowing(job):
    with contextlib.suppress(Exception):
        yield job


async def test_scripts_survive_that_redis_forgets_them(client, raw):
    queue = client.queue("emails")
    await queue.enqueue("x")
    raw.script_flush()
    await queue.enqueue("x")
    raw.script_flush()
    await queue.enqueue_many(specs(2))
    raw.script_flush()
    handle = queue.job("none")
    assert not await handle.remove()
    assert (await queue.counts())["waiting"] == 4
