"""An engine on a real Redis, without the processes and threads around it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

import msgpack
import pytest

from bullpen.handling.catalogue import Catalogue
from bullpen.handling.handlers import Handlers
from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import BUILT_IN, QueuePolicy
from bullpen.redis.link import Link
from bullpen.redis.settings import RedisSettings
from bullpen_worker.executors.facilities import Clients, Facilities
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.running.engine import Engine
from bullpen_worker.running.hooks import JobEnd, NoHooks
from tests.support.waiting import LEAST_S, eventually

T = TypeVar("T")
PREFIX = "test"


class Ends(NoHooks):
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.ends: list[JobEnd] = []
        self.suspects: list[tuple[str, str]] = []
        self.takes_suspects = False

    def job_ended(self, end: JobEnd) -> None:
        self.ends.append(end)

    def suspect(self, job_id: str, token: str) -> bool:
        self.suspects.append((job_id, token))
        return self.takes_suspects

    def outcomes(self) -> list[str]:
        return [end.outcome for end in self.ends]


class Room:
    """A queue, and what is needed to put jobs in, work on them, and look at what became of them."""

    def __init__(self, url: str, queue: str = "q") -> None:
        self.url = url
        self.settings = RedisSettings.from_url(url)
        self.keys = QueueKeys(PREFIX, queue)
        self.link = Link(self.settings, patient=True)

    async def add(
        self,
        name: str,
        data: object = None,
        opts: Mapping[str, object] | None = None,
        *,
        job_id: str = "",
        rjk: str | None = None,
    ) -> str:
        """Add a job as a foreign producer does: BullMQ's own script, no opts of ours unless given."""
        keys, opts = self.keys, {"attempts": 0, **(opts or {})}
        now_ms = int(opts.get("timestamp", time.time() * 1000))  # type: ignore[call-overload]
        head = msgpack.packb([keys.base, job_id, name, now_ms, None, None, None, rjk, None])
        args = [head, json.dumps(data if data is not None else {}), msgpack.packb(opts)]
        if opts.get("delay"):
            names = [keys.marker, keys.meta, keys.id, keys.delayed, keys.completed, keys.events]
            reply = await self.link.eval(lua.bullmq("addDelayedJob-6"), names, args)
        elif opts.get("priority"):
            names = [
                keys.marker, keys.meta, keys.id, keys.prioritized, keys.delayed, keys.completed, keys.active,
                keys.events, keys.priority_counter,
            ]  # fmt: skip
            reply = await self.link.eval(lua.bullmq("addPrioritizedJob-9"), names, args)
        else:
            names = [
                keys.wait, keys.paused, keys.meta, keys.id, keys.completed, keys.delayed, keys.active, keys.events,
                keys.marker,
            ]  # fmt: skip
            reply = await self.link.eval(lua.bullmq("addStandardJob-9"), names, args)
        assert isinstance(reply, bytes), reply
        return reply.decode()

    async def add_many(self, name: str, count: int) -> None:
        for start in range(0, count, 500):
            await asyncio.gather(*(self.add(name, job_id=f"j{n}") for n in range(start, min(start + 500, count))))

    async def fields(self, job_id: str) -> dict[str, str]:
        flat = await self.link.call("HGETALL", self.keys.job(job_id))
        words = [word.decode() for word in flat]  # type: ignore[union-attr]
        return dict(zip(words[::2], words[1::2], strict=True))

    async def counts(self) -> dict[str, int]:
        keys = self.keys
        lists = {name: await self.link.call("LLEN", getattr(keys, name)) for name in ("wait", "active")}
        sets = {
            name: await self.link.call("ZCARD", getattr(keys, name))
            for name in ("prioritized", "delayed", "completed", "failed")
        }
        return {name: count for name, count in {**lists, **sets}.items() if count}  # type: ignore[misc]

    async def locks(self) -> int:
        return len(await self.link.call("KEYS", f"{self.keys.base}*:lock"))  # type: ignore[arg-type]

    async def state(self, job_id: str) -> str:
        for name in ("delayed", "completed", "failed", "prioritized"):
            if await self.link.call("ZSCORE", getattr(self.keys, name), job_id) is not None:
                return name
        for name in ("wait", "active"):
            if job_id.encode() in (await self.link.call("LRANGE", getattr(self.keys, name), 0, -1)):  # type: ignore[operator]
                return name
        return "unknown"

    @contextlib.asynccontextmanager
    async def engine(
        self,
        *handlers: Handlers[Any],
        concurrency: int = 5,
        policy: QueuePolicy = BUILT_IN,
        hooks: Ends | None = None,
        settings: RedisSettings | None = None,
        slots: int = 50,
        **options: Any,
    ) -> AsyncIterator[Engine]:
        """Have an engine run; on leaving it is stopped and must have ended."""
        made = self.make(
            *handlers, concurrency=concurrency, policy=policy, hooks=hooks, settings=settings, slots=slots, **options
        )
        async with made as engine:
            running = asyncio.create_task(engine.run())
            try:
                yield engine
            finally:
                engine.stop(0 if running.done() else 5_000)
                async with asyncio.timeout(60):
                    await running

    @contextlib.asynccontextmanager
    async def make(
        self,
        *handlers: Handlers[Any],
        concurrency: int,
        policy: QueuePolicy = BUILT_IN,
        hooks: Ends | None = None,
        settings: RedisSettings | None = None,
        slots: int = 50,
        **options: Any,
    ) -> AsyncIterator[Engine]:
        """Make an engine and what it needs."""
        settings = settings or self.settings
        catalogue = Catalogue(handlers, self.keys.queue)
        table = SlotTable.create(slots)
        try:
            async with (
                Clients(settings) as clients,
                Facilities(catalogue.registrations, concurrency, redis=settings) as facilities,
            ):
                yield Engine(
                    settings=settings, keys=self.keys, name="host@0123456789ab", catalogue=catalogue, policy=policy,
                    table=table, executors=facilities, clients=clients, concurrency=concurrency, hooks=hooks, **options,
                )  # fmt: skip
        finally:
            table.close()

    async def idle(self, ends: Ends, count: int, timeout: float = LEAST_S) -> None:
        """Wait until so many jobs have ended."""
        await eventually(lambda: len(ends.ends) >= count, timeout)

    async def becomes(self, job_id: str, state: str, timeout: float = LEAST_S) -> dict[str, str]:
        """Wait until the job is in that state; give its fields."""

        async def there() -> bool:
            assert await self.state(job_id) == state
            return True

        await eventually(there, timeout)
        return await self.fields(job_id)


@pytest.fixture
async def room(bullpen_redis: str) -> AsyncIterator[Room]:
    made = Room(bullpen_redis)
    async with made.link:
        yield made


@pytest.fixture
def ends() -> Ends:
    return Ends()


async def until(condition: Callable[[], T], timeout: float = LEAST_S) -> T:
    return await eventually(condition, timeout)
