# pyright: strict
"""Enqueue, wait, control, embed: as docs and API write them."""

import asyncio
from datetime import UTC, datetime

from pydantic import JsonValue

from bullpen import (
    Client,
    Deduplication,
    JobFailed,
    JobHandle,
    Keep,
    ResultTimeout,
    Retention,
    SyncClient,
    SyncJobHandle,
)
from bullpen_worker import Worker, load_handlers
from tests.typing.accepted.jobs import digest, emails, tagged, welcome
from tests.typing.accepted.payloads import Receipt, Welcome, charge


async def main(job_id: str) -> None:
    async with Client() as client:
        handle: JobHandle[Receipt] = await client.enqueue(welcome.job(Welcome(user_id=7)), delay="5m", priority="high")
        await client.enqueue(
            digest.job(7, since="72h"), delay=datetime(2027, 1, 1, tzinfo=UTC), job_id="digest-7-2027", lifo=True
        )
        await client.enqueue(digest.job(7), attempts=3, retention=Retention(failed=Keep(age="168h", count=1000)))
        await client.enqueue(digest.job(7), deduplication=Deduplication.debounce("digest-7", "10s"))
        await client.enqueue_many(welcome.job(Welcome(user_id=n)).with_options(priority=n) for n in range(1, 9))
        named: JobHandle[JsonValue] = await client.queue("emails").enqueue("welcome", {"userId": 7}, delay="5m")
        await client.queue("emails").enqueue("welcome", Welcome(user_id=7))
        print(named.id, named.queue)
        handle = client.handle(welcome, job_id)
        async with handle.events() as events:
            async for event in events:
                print(event.at, event.type, event.state, event.progress)
        try:
            print((await handle.result(timeout="30s")).message_id)
        except JobFailed as error:
            print(error.error_type, error.reason, error.attempts)
        except ResultTimeout:
            await handle.cancel("nobody waits any more")
        print((await handle.info()).state, await handle.logs(), await handle.promote(), await handle.remove())


def from_a_view(client: SyncClient) -> str:
    handle: SyncJobHandle[Receipt] = client.enqueue(welcome.job(Welcome(user_id=7)))
    return handle.result(timeout="10s").message_id


async def elsewhere() -> None:
    async with Client("redis://localhost", timeout="5s", middleware=[tagged]) as client:
        print((await (await client.enqueue(charge.job(Welcome(user_id=7)))).result(timeout="20s")).message_id)


async def serve() -> None:
    async with Client() as client, asyncio.TaskGroup() as tasks:
        worker = Worker(client, queue="emails", handlers=[emails], concurrency=20, grace="30s")
        tasks.create_task(worker.run())
        tasks.create_task(Worker(client, queue="reports", handlers=load_handlers("shop.reports")).run())
        worker.concurrency = 5
        worker.stop()
