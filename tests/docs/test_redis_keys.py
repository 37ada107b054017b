"""The reference page of the keys in Redis names every key and every field that comes about."""

import asyncio
import re

import redis

from bullpen import Backoff, Client, Context, Deduplication, Handlers, JobFailed, RetryableError, Snooze
from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.declaration import Owner, WriteDeclaration, declare
from bullpen.queue.keys import OURS, QueueKeys
from bullpen_worker import Worker
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "redis-keys.md").read_text(encoding="utf-8")
KEYS = QueueKeys("bull", "emails")

emails = Handlers("emails")


@emails.handler("welcome")
async def welcome(ctx: Context[None], how: str) -> str:
    ctx.log("began")
    ctx.progress(50)
    if how == "flaky" and ctx.job.attempt == 1:
        raise RetryableError("again", delay="1ms")
    if how == "later" and not ctx.job.snoozes:
        raise Snooze("1ms")
    if how == "broken":
        raise ValueError
    return how


def test_every_key_and_field_of_ours_in_the_code_stands_on_the_page():
    sources = [
        path for part in ("client", "worker") for kind in ("*.py", "*.lua") for path in (ROOT / part).rglob(kind)
    ]
    fields = {name for path in sources for name in re.findall(r"[\"`](bullpen:[a-z]+)[\"`]", path.read_text())}
    wanted = {*fields, *(f"bullpen:{what}" for what in OURS)} - {"bullpen:doctor"}  # a connection's name
    assert len(wanted) > 12
    assert {name for name in wanted if f"`{name}`" not in PAGE} == set()


async def test_every_key_of_a_busy_queue_stands_on_the_page(bullpen_redis):
    spec = {"concurrency": {"total": 5}, "rateLimit": {"jobs": 100, "per": "1s"}, "retry": {"attempts": 2}}
    spec["priorities"] = {"levels": {"normal": 10}, "default": "normal"}
    queue = JobQueue.model_validate({"metadata": {"name": "emails"}, "spec": spec})
    async with Client(bullpen_redis) as client:
        declaration = WriteDeclaration.of(queue, KEYS, Owner("local", "me", "emails"))
        await client._session.run(declare(declaration, client._session.now_ms()))
        worker = Worker(client, queue="emails", handlers=[emails])
        working = asyncio.create_task(worker.run())
        jobs = [
            await client.enqueue(
                welcome.job(how), attempts=2, backoff=Backoff.linear("1ms"), timeout="1m", expires="1h"
            )
            for how in ("fine", "flaky", "later", "broken")
        ]
        jobs.append(await client.enqueue(welcome.job("once"), deduplication=Deduplication.throttle("once", "1m")))
        await client.enqueue(welcome.job("much later"), delay="1h")
        for job in jobs:
            try:
                await job.result(timeout="60s")
            except JobFailed:
                assert job is jobs[3]
        seen = look(bullpen_redis)
        worker.stop()
        await working
    assert {name for name in seen if f"`{name}`" not in PAGE} == set()
    assert seen >= {"<id>:logs", "bullpen:policy", "bullpen:workers", "bullpen:snoozes", "de:<id>", "metrics:completed"}


def look(url):
    """Give the names of all keys, and of the fields of jobs and options."""
    store = redis.Redis.from_url(url, decode_responses=True)
    found = set()
    for key in store.scan_iter():
        name = key.removeprefix(KEYS.base)
        assert name != key
        is_job = re.match(r"[0-9a-f]{8}-[0-9a-f-]{27}", name)
        name = re.sub(r"^[0-9a-f]{8}-[0-9a-f-]{27}", "<id>", name)
        found.add(re.sub(r"^(de|dn):.*", r"\1:<id>", name))
        if is_job and name == "<id>":
            found.update(store.hkeys(key))
    return found
