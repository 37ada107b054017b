"""Node's BullMQ as a tenant: a user that can touch one queue's keys does all that a queue needs."""

import asyncio

import pytest

from bullpen_operator.connections import acl
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.answers import version_of
from tests.interop.conftest import NodeDriver, NodeError
from tests.support.waiting import eventually

PASSWORD = "n" * 43


@pytest.fixture
async def tenant(start_node, redis_url, raw) -> NodeDriver:
    user = acl.user_name("test", "shop", "emails")
    hashes = (acl.password_hash(PASSWORD),)
    raw.execute_command(
        "ACL",
        "SETUSER",
        user,
        *acl.rules(Confines("shop", ("emails",)), hashes, version=version_of(raw.info("server"))),
    )
    node = await start_node(redis_url, user, PASSWORD, "shop")
    raw.acl_log_reset()
    return node


async def test_a_node_queue_and_a_node_worker_do_all_they_can(tenant: NodeDriver, raw) -> None:
    node = tenant
    q = "emails"
    async with asyncio.timeout(60):
        await node.watch(q, "completed", "failed", "progress")
        await node.worker(q, {"concurrency": 5, "lockDuration": 2000, "stalledInterval": 500})
        first = await node.add(q, "a", {"value": 7}, {})
        assert await node.waitUntilFinished(q, first, 50_000) == 7
        many = await node.addBulk(q, [{"name": "b", "data": {"value": n}} for n in range(50)])
        retried = await node.add(q, "c", {"does": "fail-first", "times": 1, "value": 3}, {"attempts": 3, "backoff": 10})
        assert await node.waitUntilFinished(q, retried, 50_000) == 3
        failed = await node.add(q, "d", {"does": "fail"}, {"attempts": 1})
        await eventually(
            lambda: any(each.get("jobId") == failed for each in node.events if each["type"] == "failed"), 20
        )
        await node.retry(q, failed)
        for does in ("progress", "log"):
            told = await node.add(q, "e", {"does": does, "value": 5}, {"priority": 5})
            await node.waitUntilFinished(q, told, 50_000)
        for each in many:
            assert (await eventually(lambda each=each: _ended(node, q, each), 20))["state"] == "completed"
        limited = await node.add(q, "f", {"does": "rate-limit", "ms": 50}, {})
        await node.waitUntilFinished(q, limited, 50_000)
        await node.upsertJobScheduler(q, "tick", {"every": 200}, {"name": "g", "data": {}})
        await eventually(lambda: sum(each["name"] == "g" for each in node.jobs) >= 2, 20)
        await node.queue(q, "removeJobScheduler", "tick")
        await node.pause(q)
        delayed = await node.add(q, "h", {}, {"delay": 3_600_000, "deduplication": {"id": "once"}})
        await node.promote(q, delayed)
        removed = await node.add(q, "i", {}, {})
        await node.remove(q, removed)
        await node.resume(q)
        await node.waitUntilFinished(q, delayed, 50_000)
        await node.setGlobalConcurrency(q, 3)
        await node.setGlobalRateLimit(q, 100, 1000)
        for method, *args in (
            ("getJobs", ["completed", "failed"], 0, 10),
            ("getJobCounts",),
            ("getMetrics", "completed"),
            ("getJobSchedulers",),
            ("getRateLimitTtl",),
            ("isMaxed",),
            ("clean", 0, 100, "completed"),
            ("trimEvents", 10),
            ("drain", True),
            ("obliterate", {"force": True}),
        ):
            await node.queue(q, method, *args)
        await node.closeWorker(q)
    assert node.errors == []
    # Node tells the server its library's name, and does without where it may not; Redis 6.2 logs no subcommands.
    assert {each["object"] for each in raw.acl_log()} - {"client|setinfo", "client"} == set()


async def _ended(node: NodeDriver, queue: str, job: str) -> dict | None:
    found = await node.getJob(queue, job)
    return found if found["state"] in {"completed", "failed"} else None


async def test_a_node_tenant_reaches_no_other_queue(tenant: NodeDriver) -> None:
    with pytest.raises(NodeError, match=r"NOPERM|ACL|permission"):
        await tenant.add("images", "a", {}, {})
    with pytest.raises(NodeError, match=r"NOPERM|ACL|permission"):
        await tenant.getWorkers("emails")  # CLIENT LIST would tell of everybody
