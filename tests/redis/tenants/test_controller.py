"""What is shown of a Redis when its connection is pointed at another, or deleted: that of the other, and nothing."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import pytest

from bullpen import embedded
from bullpen_operator.cache import Cache
from bullpen_operator.connections.controller import Connections
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.kube import kinds
from support.secrets import Secrets
from tests.support.waiting import eventually

Object = dict[str, Any]


class Cluster:
    """Takes statuses and events."""

    async def apply_status(self, obj: Object, manager: str = "") -> Object:
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "0"}}

    def record(self, *_: object, **__: object) -> None:
        pass


class Shown:
    """The metrics of Redises, as the operator keeps them."""

    def __init__(self) -> None:
        self.up: dict[str, bool] = {}
        self.gone: list[str] = []
        self.connections: Connections | None = None

    def changed(self, redis: Redis) -> None:
        if self.connections is not None and not self.connections.is_superseded(redis):
            self.up[redis.id] = redis.up

    def set(self, name: str, up: bool) -> None:
        self.up[name] = up


def connection(url: str, version: int) -> Object:
    endpoint = url.rsplit("/", 1)[0] + "/0"
    metadata = {"name": "main", "namespace": "shop", "uid": "u", "generation": version, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"endpoints": [endpoint], "users": "Shared"}}


@pytest.fixture
def two(redis_binary: embedded.Binary) -> Iterator[tuple[embedded.Server, embedded.Server]]:
    with (
        embedded.start(binary=redis_binary, unix=False) as first,
        embedded.start(binary=redis_binary, unix=False) as second,
    ):
        yield first, second


@contextlib.asynccontextmanager
async def running(cache: Cache, shown: Shown, redises: Redises, *, leads: bool = True) -> AsyncIterator[Connections]:
    cluster = Cluster()
    redises.subscribe(shown.changed)
    made = shown.connections = Connections(
        cluster,
        cache,
        redises,
        cluster,
        operator_namespace="infra",
        cluster_wide=True,
        leading=lambda: leads,
        now=lambda: dt.datetime.now(dt.UTC),
        gone=shown.gone.append,
        up=shown.set,
    )
    working = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        working.cancel()
        await asyncio.wait([working])


async def test_a_connection_that_leads_elsewhere_is_shown_as_that(
    two: tuple[embedded.Server, embedded.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpen_operator.connections.controller.COUNT_SECONDS", 0.02)
    first, second = two
    now = [0.0]
    cache, shown = Cache(), Shown()
    async with (
        Redises(Secrets(), monotonic=lambda: now[0]) as redises,
        running(cache, shown, redises) as connections,
    ):
        cache.put(kinds.REDIS_CONNECTION, connection(first.url, 1))
        await eventually(lambda: shown.up == {"shop/main": True})
        cache.put(kinds.REDIS_CONNECTION, connection(second.url, 2))
        await eventually(lambda: len(redises.known()) == 2 and all(redis.up for redis in redises.known()))
        first.kill()
        old = next(redis for redis in redises.known() if first.url.rsplit("/", 1)[0] in redis.ref.endpoint)
        await eventually(lambda: not old.up)
        assert shown.up == {"shop/main": True}
        now[0] = 301.0
        new = next(redis for redis in redises.known() if redis is not old)
        new.used_at = now[0]
        connections.look_at_all()
        await eventually(lambda: redises.known() == (new,))
        assert (shown.up, shown.gone) == ({"shop/main": True}, [])


async def test_a_connection_that_was_deleted_is_shown_no_more_also_where_nothing_else_happens(
    two: tuple[embedded.Server, embedded.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else BullpenRedisDown goes on about a Redis whose connection somebody has deleted because of that."""
    for name in ("COUNT_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(f"bullpen_operator.connections.controller.{name}", 0.02)
    now = [0.0]
    cache, shown = Cache(), Shown()
    async with Redises(Secrets(), monotonic=lambda: now[0]) as redises, running(cache, shown, redises):
        cache.put(kinds.REDIS_CONNECTION, connection(two[0].url, 1))
        await eventually(lambda: shown.up == {"shop/main": True})
        two[0].kill()
        await eventually(lambda: shown.up == {"shop/main": False})
        cache.remove(kinds.key_of(kinds.REDIS_CONNECTION, connection("/", 0)))
        await asyncio.sleep(0.1)  # all that this leads to at once is over
        assert shown.gone == []
        now[0] = 301.0
        await eventually(lambda: shown.gone == ["shop/main"])
        assert redises.known() == ()


async def test_a_redis_that_a_connection_names_is_not_closed_by_one_that_does_not_lead(
    two: tuple[embedded.Server, embedded.Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks it anything while it is away, and the scaler, which is warm, waits for it to come back."""
    for name in ("COUNT_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(f"bullpen_operator.connections.controller.{name}", 0.02)
    now, seen = [0.0], list[tuple[Redis, ...]]()
    cache = Cache()
    cache.put(kinds.REDIS_CONNECTION, connection(two[0].url, 1))
    async with Redises(Secrets(), monotonic=lambda: now[0]) as redises:
        redis = await redises.of(RedisRef(two[0].url.rsplit("/", 1)[0] + "/0", "shop", id="shop/main"))
        retain = redises.retain

        async def counted(refs: Collection[RedisRef]) -> tuple[Redis, ...]:
            seen.append(await retain(refs))
            return seen[-1]

        monkeypatch.setattr(redises, "retain", counted)
        async with running(cache, Shown(), redises, leads=False):
            await eventually(lambda: len(seen) >= 3)
            now[0], begun = 301.0, len(seen)
            await eventually(lambda: len(seen) >= begun + 3)
            assert redises.known() == (redis,)
            cache.remove(kinds.key_of(kinds.REDIS_CONNECTION, connection("/", 0)))
            await eventually(lambda: redises.known() == ())


@pytest.mark.parametrize(("labels", "counts"), [({"team": "a"}, False), ({"team": "b"}, True)])
async def test_a_namespace_has_all_counted_anew_where_its_labels_change(labels: dict[str, str], counts: bool) -> None:
    """By thousands, counting takes time that wakes have to wait for; and namespaces change for many reasons."""
    cache, now = Cache(), [0.0]
    metadata = {"name": "shop", "uid": "u", "resourceVersion": "1", "labels": {"team": "a"}}
    async with Redises(Secrets(), monotonic=lambda: now[0]) as redises, running(cache, Shown(), redises) as connections:
        cache.put(kinds.NAMESPACE, {"metadata": metadata})
        connections._recount.clear()
        changed = metadata | {"resourceVersion": "2", "annotations": {"a": "b"}, "labels": labels}
        cache.put(kinds.NAMESPACE, {"metadata": changed})
        assert connections._recount.is_set() is counts
