"""Node produces and watches; our worker runs the jobs."""

import asyncio
import json

import pytest

from tests.interop.conftest import NodeError, put_off_ms
from tests.support.does import obedient, working, write_policy
from tests.support.waiting import eventually, never


@pytest.fixture
def starts():
    """What our worker started, in order."""
    return []


@pytest.fixture
async def worker(redis_url, starts):
    """Our worker, running; the queue's policy is that a job that says nothing has one attempt, and waits for none."""
    write_policy(redis_url, retry={"attempts": 1, "backoff": {"type": "Immediate"}})
    async with working(redis_url, obedient(starts)) as worker:
        yield worker


def names(starts):
    return [start.name for start in starts]


@pytest.mark.parametrize("value", [{"messageId": "m-7", "ü": [1, 2.5, None]}, 7, "text", [], None, True])
async def test_wait_until_finished_gives_our_result(node, worker, value):
    job_id = await node.add("q", "work", {"value": value})
    assert await node.waitUntilFinished("q", job_id, 50_000) == value
    found = await node.getJob("q", job_id)
    assert (found["state"], found["returnvalue"], found["attemptsMade"]) == ("completed", value, 1)
    assert found["processedBy"] == worker.name


async def test_wait_until_finished_gives_our_error(node, worker):
    job_id = await node.add("q", "work", {"does": "fail", "message": "no such card", "ms": 30})
    with pytest.raises(NodeError, match="no such card"):
        await node.waitUntilFinished("q", job_id, 50_000)
    found = await node.getJob("q", job_id)
    assert (found["state"], found["failedReason"]) == ("failed", "no such card")
    assert "RuntimeError: no such card" in found["stacktrace"][-1]


# -- options of add ------------------------------------------------------------------------------------------------


async def test_priorities_and_lifo_decide_who_is_first(node, redis_url, starts):
    for name, opts in [
        ("second", {}),
        ("third", {}),
        ("first", {"lifo": True}),
        ("sixth", {"priority": 20}),
        ("fourth", {"priority": 1}),
        ("fifth", {"priority": 1}),
    ]:
        await node.add("q", name, {}, opts)
    async with working(redis_url, obedient(starts), concurrency=1):
        await eventually(lambda: len(starts) == 6)
    assert names(starts) == ["first", "second", "third", "fourth", "fifth", "sixth"]


async def test_a_delay_is_kept(node, worker, starts):
    job_id = await node.add("q", "late", {}, {"delay": 400})
    await eventually(lambda: starts)
    found = await node.getJob("q", job_id)
    assert found["processedOn"] - found["timestamp"] >= 400


async def test_one_job_id_is_one_job(node, worker, starts):
    first = await node.add("q", "work", {"value": 1}, {"jobId": "order-7"})
    await node.waitUntilFinished("q", first, 50_000)
    assert await node.add("q", "work", {"value": 2}, {"jobId": "order-7"}) == "order-7"
    assert (await node.getJob("q", "order-7"))["returnvalue"] == 1
    assert len(starts) == 1


@pytest.mark.parametrize(
    ("backoff", "waits_ms"),
    [
        (None, [(0, 0), (0, 0)]),
        (60, [(60, 60), (60, 60)]),
        ({"type": "fixed", "delay": 60}, [(60, 60), (60, 60)]),
        ({"type": "exponential", "delay": 40}, [(40, 40), (80, 80)]),
        ({"type": "exponential", "delay": 100, "jitter": 0.9}, [(10, 100), (20, 200)]),
    ],
    ids=["none", "number", "fixed", "exponential", "jitter"],
)
async def test_attempts_and_backoff(node, worker, starts, raw, backoff, waits_ms):
    opts = {"attempts": 3} | ({"backoff": backoff} if backoff is not None else {})
    await node.watch("q", "delayed", "retries-exhausted")
    job_id = await node.add("q", "work", {"does": "fail"}, opts)
    with pytest.raises(NodeError, match="it failed"):
        await node.waitUntilFinished("q", job_id, 50_000)
    assert [start.attempt for start in starts] == [1, 2, 3]
    if backoff is not None:
        for index, (least, most) in enumerate(waits_ms):
            assert least - 2 <= (starts[index + 1].at - starts[index].at) * 1000
            assert put_off_ms(raw)[index] <= most
    found = await node.getJob("q", job_id)
    assert (found["attemptsMade"], len(found["stacktrace"])) == (3, 3)
    exhausted = await eventually(lambda: [each for each in node.events if each["type"] == "retries-exhausted"])
    assert exhausted == [{"type": "retries-exhausted", "jobId": job_id, "attemptsMade": "3"}]


async def test_a_job_that_brings_no_attempts_gets_those_of_the_policy(node, redis_url, starts):
    write_policy(redis_url, retry={"attempts": 3, "backoff": {"type": "Fixed", "delay": "10ms", "jitter": "0%"}})
    absent = await node.add("q", "absent", {"does": "fail"})
    zero = await node.add("q", "zero", {"does": "fail"}, {"attempts": 0})
    own = await node.add("q", "own", {"does": "fail"}, {"attempts": 1})
    async with working(redis_url, obedient(starts)):
        for job_id in (absent, zero, own):
            with pytest.raises(NodeError):
                await node.waitUntilFinished("q", job_id, 50_000)
    assert sorted(names(starts)) == ["absent"] * 3 + ["own"] + ["zero"] * 3


async def test_a_backoff_that_only_its_producer_knows_is_the_policys(node, redis_url, starts, raw):
    write_policy(redis_url, retry={"attempts": 2, "backoff": {"type": "Fixed", "delay": "150ms", "jitter": "0%"}})
    job_id = await node.add("q", "work", {"does": "fail"}, {"attempts": 2, "backoff": {"type": "custom"}})
    async with working(redis_url, obedient(starts)):
        with pytest.raises(NodeError):
            await node.waitUntilFinished("q", job_id, 50_000)
    assert starts[1].at - starts[0].at >= 0.148
    assert put_off_ms(raw)[0] <= 150


@pytest.mark.parametrize(
    ("option", "kept"),
    [(True, 0), (False, 5), (2, 2), ({"count": 3}, 3), ({"age": 3600}, 5), ({"age": 3600, "count": 1}, 1)],
)
@pytest.mark.parametrize("ends", ["completed", "failed"])
async def test_retention(node, worker, starts, raw, option, kept, ends):
    name = {"completed": "removeOnComplete", "failed": "removeOnFail"}[ends]
    does = {"completed": "return", "failed": "fail"}[ends]
    for _ in range(5):
        await node.add("q", "work", {"does": does}, {name: option})
    await eventually(lambda: len(starts) == 5 and not raw.llen("bull:q:active") and not raw.llen("bull:q:wait"))
    assert (await node.counts("q"))[ends] == kept
    assert len([key for key in raw.scan_iter("bull:q:*") if key.rpartition(":")[2].isdigit()]) == kept


async def test_simple_deduplication_lasts_as_long_as_the_job(node, worker, starts):
    opts = {"deduplication": {"id": "d"}}
    first = await node.add("q", "work", {"ms": 2_000}, opts)
    assert await node.add("q", "work", {}, opts) == first
    await node.waitUntilFinished("q", first, 50_000)
    again = await node.add("q", "work", {}, opts)
    assert again != first
    await node.waitUntilFinished("q", again, 50_000)
    assert len(starts) == 2


async def test_throttle_outlives_the_job(node, worker, starts):
    opts = {"deduplication": {"id": "d", "ttl": 60_000}}
    first = await node.add("q", "work", {}, opts)
    await node.waitUntilFinished("q", first, 50_000)
    assert await node.add("q", "work", {}, opts) == first
    assert len(starts) == 1


async def test_debounce_runs_the_last(node, worker, starts):
    opts = {"delay": 2_000, "deduplication": {"id": "d", "ttl": 2_000, "extend": True, "replace": True}}
    for number in range(4):
        await node.add("q", "work", {"number": number}, opts)
    await eventually(lambda: starts)
    await eventually(lambda: _nothing_left(node))
    assert [start.data["number"] for start in starts] == [3]


async def test_keep_last_if_active_runs_the_last_afterwards(node, worker, starts, raw):
    opts = {"deduplication": {"id": "d", "keepLastIfActive": True}}
    await node.add("q", "work", {"number": 0, "ms": 2_000}, opts)
    await eventually(lambda: starts)
    for number in (1, 2, 3):
        await node.add("q", "work", {"number": number}, opts)
    await eventually(lambda: len(starts) == 2)
    await eventually(lambda: _nothing_left(node))
    assert [start.data["number"] for start in starts] == [0, 3]
    assert starts[1].at - starts[0].at >= 1.99  # not while the first one ran
    assert not raw.keys("bull:q:d[en]:*")


async def _nothing_left(node):
    counts = await node.counts("q")
    return not any(counts[state] for state in ("waiting", "active", "delayed", "prioritized"))


async def test_keep_logs_and_stack_trace_limit(node, worker, starts):
    logged = await node.add("q", "work", {"does": "log", "message": "kept"}, {"keepLogs": 1, "attempts": 1})
    await node.waitUntilFinished("q", logged, 50_000)
    failed = await node.add("q", "work", {"does": "fail"}, {"attempts": 4, "stackTraceLimit": 2})
    with pytest.raises(NodeError):
        await node.waitUntilFinished("q", failed, 50_000)
    assert (await node.logs("q", logged))["logs"] == ["kept"]
    assert len((await node.getJob("q", failed))["stacktrace"]) == 2


async def test_a_handler_that_gives_up_uses_no_further_attempt(node, worker, starts):
    job_id = await node.add("q", "work", {"does": "give-up"}, {"attempts": 5})
    with pytest.raises(NodeError, match="it failed"):
        await node.waitUntilFinished("q", job_id, 50_000)
    assert len(starts) == 1


async def test_a_failed_job_that_node_retries_runs_again(node, worker, starts):
    job_id = await node.add("q", "work", {"does": "fail-first", "times": 1, "value": "at last"})
    with pytest.raises(NodeError):
        await node.waitUntilFinished("q", job_id, 50_000)
    await node.retry("q", job_id)
    assert await eventually(lambda: _returned(node, job_id)) == "at last"


async def _returned(node, job_id):
    return (await node.getJob("q", job_id))["returnvalue"]


# -- what Node sees while a job runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [42, {"half": 50, "of": ["x"]}])
async def test_progress(node, worker, value):
    await node.watch("q", "progress", "active", "completed")
    job_id = await node.add("q", "work", {"does": "progress", "value": value})
    assert await node.waitUntilFinished("q", job_id, 50_000) == value
    assert (await node.getJob("q", job_id))["progress"] == value
    await eventually(lambda: len(node.events) == 3)
    told = [(each["type"], each.get("data", each.get("returnvalue"))) for each in node.events]
    assert told == [("active", None), ("progress", value), ("completed", value)]


async def test_logs(node, worker):
    job_id = await node.add("q", "work", {"does": "log", "message": "on its way"})
    await node.waitUntilFinished("q", job_id, 50_000)
    assert await node.logs("q", job_id) == {"logs": ["on its way"], "count": 1}


async def test_node_sees_each_of_our_workers_once_by_its_name(node, redis_url, worker):
    async with working(redis_url, obedient()) as other:
        workers = await eventually(lambda: _workers(node, 2))
        assert {each["name"] for each in workers} == {"q"}
        seen = sorted(each["rawname"].partition(":w:")[2] for each in workers)
        assert seen == sorted([worker.name, other.name])
        assert await node.queue("q", "getWorkersCount") == 2


async def _workers(node, count):
    workers = await node.getWorkers("q")
    assert len(workers) == count, workers
    return workers


async def test_the_reads_of_a_dashboard(node, worker, starts):
    for does in ("return", "fail", "return"):
        await node.add("q", "work", {"does": does})
    await node.add("q", "later", {}, {"delay": 3_600_000})
    await node.add("q", "running", {"ms": 8_000})
    counts = {"active": 1, "completed": 2, "failed": 1, "delayed": 1, "waiting": 0, "prioritized": 0}
    await eventually(lambda: _counted(node, counts))
    jobs = await node.queue("q", "getJobs", ["completed", "failed", "delayed", "active"])
    assert sorted(job["name"] for job in jobs) == ["later", "running", "work", "work", "work"]
    for state, points in (("completed", 2), ("failed", 1)):
        metrics = await node.queue("q", "getMetrics", state)
        assert metrics["meta"]["count"] == points
    text = await node.queue("q", "exportPrometheusMetrics")
    assert 'bullmq_job_count{queue="q", state="completed"} 2' in text


async def _counted(node, expected):
    counts = await node.counts("q")
    assert {state: counts[state] for state in expected} == expected
    return True


# -- control and limits ----------------------------------------------------------------------------------------------


async def test_node_pauses_and_resumes(node, worker, starts):
    await node.add("q", "before", {})
    await eventually(lambda: starts)
    await node.pause("q")
    held = await node.add("q", "held", {})
    await node.add("q", "held", {}, {"priority": 3})
    assert (await node.getJob("q", held))["state"] in {"waiting", "paused"}
    await never(lambda: len(starts) > 1, 0.4)
    await node.resume("q")
    await eventually(lambda: len(starts) == 3)


async def test_a_global_rate_limit_set_by_node(node, redis_url, starts, raw):
    await node.setGlobalRateLimit("q", 4, 300)
    async with working(redis_url, obedient(starts)):
        await asyncio.gather(*(node.add("q", "work", {}) for _ in range(12)))
        await eventually(lambda: len(starts) == 12, 10)
    # By Redis' clock: ours may be put off in between.
    at_ms = [int(number.split("-")[0]) for number, event in raw.xrange("bull:q:events") if event["event"] == "active"]
    assert len(at_ms) == 12
    # The first opens a period; the last is not before the third, however late within their periods others came.
    assert at_ms[-1] - at_ms[0] >= 1.8 * 300


async def test_a_rate_limit_that_a_handler_of_ours_raises_holds_for_node(node, worker, starts):
    await node.add("q", "work", {"does": "rate-limit"})
    await eventually(lambda: len(starts) == 2)
    assert starts[1].at - starts[0].at >= 0.19
    assert [start.attempt for start in starts] == [1, 1]


async def test_total_concurrency_set_by_node(node, redis_url, starts, raw):
    await node.setGlobalConcurrency("q", 2)
    most = 0
    async with working(redis_url, obedient(starts), concurrency=10):
        await asyncio.gather(*(node.add("q", "work", {"ms": 40}) for _ in range(20)))

        async def done():
            nonlocal most
            most = max(most, raw.llen("bull:q:active"))
            return raw.zcard("bull:q:completed") == 20

        await eventually(done, 10)
    assert most == 2


# -- schedulers and flows made by Node ---------------------------------------------------------------------------------


@pytest.mark.parametrize("repeat", [{"every": 300}, {"pattern": "* * * * * *"}], ids=["every", "pattern"])
async def test_a_scheduler_of_node_is_run_on(node, worker, starts, raw, repeat):
    await node.upsertJobScheduler("q", "tick", repeat, {"name": "tick", "data": {"value": 1}, "opts": {"attempts": 2}})
    await eventually(lambda: len(starts) >= 4, 10)
    assert {start.name for start in starts} == {"tick"}
    scheduler = (await node.getJobSchedulers("q"))[0]
    assert scheduler["iterationCount"] >= 4
    done = await node.getJob("q", starts[0].id)
    assert done["opts"]["attempts"] == 2
    assert await node.queue("q", "removeJobScheduler", "tick")
    await eventually(lambda: _nothing_left(node))


async def test_a_scheduler_of_node_ends_at_its_limit(node, worker, starts):
    await node.upsertJobScheduler("q", "tick", {"every": 50, "limit": 3}, {"name": "tick"})
    await eventually(lambda: len(starts) == 3)
    await eventually(lambda: _nothing_left(node))
    assert len(starts) == 3


async def test_a_flow_of_node(node, worker, starts, raw):
    tree = {
        "name": "parent",
        "queueName": "q",
        "data": {"value": "done"},
        "children": [{"name": f"child {n}", "queueName": "q", "data": {"value": n, "ms": 20}} for n in range(3)],
    }
    parent = await node.addFlow(tree)
    assert await node.waitUntilFinished("q", parent, 50_000) == "done"
    assert names(starts)[-1] == "parent"
    assert len(starts) == 4
    values = raw.hgetall(f"bull:q:{parent}:processed")
    assert sorted(json.loads(value) for value in values.values()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("policy", "state", "ran"),
    [
        ({"failParentOnFailure": True}, "failed", ["bad"]),
        ({"ignoreDependencyOnFailure": True}, "completed", ["bad", "parent"]),
        ({"removeDependencyOnFailure": True}, "completed", ["bad", "parent"]),
        ({"continueParentOnFailure": True}, "completed", ["bad", "parent"]),
        ({}, "waiting-children", ["bad"]),
    ],
    ids=["fail", "ignore", "remove", "continue", "node's default"],
)
async def test_what_a_failing_child_does_to_its_parent(node, worker, starts, policy, state, ran):
    child = {"name": "bad", "queueName": "q", "data": {"does": "fail"}, "opts": policy}
    parent = await node.addFlow({"name": "parent", "queueName": "q", "data": {}, "children": [child]})

    async def there():
        found = await node.getJob("q", parent)
        assert (found["state"], names(starts)) == (state, ran)
        return True

    await eventually(there)
