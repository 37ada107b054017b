"""What a deletion does to the queue, step by step: only what its policy says, and only to a queue that is its own."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from bullpen import Client, embedded
from bullpen.api.v1alpha1 import JobQueue
from bullpen.queue.declaration import Owner, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys
from bullpen_operator import deletion
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from tests.support.secrets import Secrets

KEYS = QueueKeys("bull", "emails")
OURS = Owner("here", "shop", "emails", uid="1")
THEIRS = Owner("there", "shop", "emails", uid="2")
OVER = "spec.deletion.timeout (600 s) is over"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with embedded.start(unix=False) as started:
        yield started.url.rsplit("/", 1)[0] + "/0"


@pytest.fixture
async def server(url: str) -> AsyncIterator[Redis]:
    async with Redises(Secrets()) as redises:
        yield await redises.of(RedisRef(url, "shop", id="shop/main"))


@pytest.fixture(autouse=True)
async def raw(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


def jobqueue(policy: str, **spec: object) -> JobQueue:
    return JobQueue.model_validate({"metadata": {"name": "emails"}, "spec": {"deletion": {"policy": policy}, **spec}})


@pytest.fixture
def step(server: Redis):
    async def step(policy: str, *, owner: Owner = OURS, over: str = "", **spec: object) -> deletion.Outcome:
        return await deletion.step(server, jobqueue(policy, **spec), KEYS, owner, policy=policy, over=over, now_ms=1)

    return step


@pytest.fixture
def declared(server: Redis, url: str):
    async def declared(*, owner: Owner = OURS, jobs: int = 1, **spec: object) -> None:
        await server.run_steps(declare(WriteDeclaration.of(jobqueue("Delete", **spec), KEYS, owner), 1))
        async with Client(url) as client:
            for _ in range(jobs):
                await client.queue("emails").enqueue("welcome")

    return declared


async def test_retain_leaves_all_also_where_the_policy_was_another_before(step, declared, raw):
    await declared()
    outcome = await step("Retain", over=OVER)
    assert (outcome.done, outcome.gave_up) == (True, False)
    assert await raw.llen(KEYS.wait) == 1
    assert await raw.hget(KEYS.owner, "released") == "1"
    assert not await raw.hexists(KEYS.owner, "tombstone")


async def test_a_removal_that_became_a_retention_lets_the_queue_run_again(step, declared, raw):
    await declared()
    await raw.rpoplpush(KEYS.wait, KEYS.active)
    assert not (await step("Delete")).done
    assert await raw.hexists(KEYS.meta, "paused")
    assert (await step("Retain")).done
    assert not await raw.hexists(KEYS.meta, "paused")
    assert await raw.llen(KEYS.active) == 1


@pytest.mark.parametrize("paused", [True, False])
async def test_why_a_drain_cannot_go_on_is_said(step, declared, paused):
    await declared(paused=paused)
    outcome = await step("Drain", paused=paused)
    assert outcome.text.startswith("Draining: 1 jobs are left, 0 of them run.")
    assert ("until it is resumed" in outcome.text) is paused


@pytest.mark.parametrize("over", ["", OVER])
@pytest.mark.parametrize("policy", ["Retain", "Drain", "Delete"])
async def test_another_owners_queue_is_left_as_it_is(step, declared, raw, url, policy, over):
    await declared(owner=THEIRS, paused=True)
    async with redis.asyncio.Redis.from_url(url) as whole:
        before = {key: await whole.dump(key) for key in await raw.keys("bull:emails:*")}
        assert (await step(policy, over=over)).done
        assert {key: await whole.dump(key) for key in await raw.keys("bull:emails:*")} == before


@pytest.mark.parametrize("policy", ["Retain", "Drain", "Delete"])
async def test_of_a_queue_that_nobody_declared_no_key_is_made(step, raw, policy):
    assert (await step(policy, over=OVER)).done
    assert await raw.keys("*") == []


@pytest.mark.parametrize("paused_by_somebody", [True, False])
async def test_a_removal_that_is_given_up_resumes_only_what_it_had_paused(step, declared, raw, paused_by_somebody):
    await declared()
    await raw.rpoplpush(KEYS.wait, KEYS.active)
    if paused_by_somebody:
        await raw.hset(KEYS.meta, "paused", "1")
    for _ in range(2):  # it is looked at again, and must not take its own pause for another's
        assert not (await step("Delete")).done
    outcome = await step("Delete", over=OVER)
    assert outcome.gave_up
    assert await raw.hexists(KEYS.meta, "paused") is paused_by_somebody
    assert OVER in await raw.hget(KEYS.owner, "tombstone")
    assert not await raw.hexists(KEYS.owned, "purging")


async def test_a_removal_that_takes_long_leaves_redis_in_use_for_others(step, declared, raw, server, monkeypatch):
    """The last answer of a round is waited for: it is no sign of a Redis that does not answer."""
    await declared(jobs=3)
    await raw.rpush(KEYS.wait, *map(str, range(100, 30_000)))
    monkeypatch.setattr(type(server).run_steps, "__kwdefaults__", {"timeout": 0.05})
    outcomes = [await step("Delete")]
    while not outcomes[-1].done:
        assert server.up, server.why
        outcomes.append(await step("Delete"))
    assert len(outcomes) > 1
    assert "jobs are being removed" in outcomes[0].text
    assert await raw.keys("bull:emails:*") == []


def test_retain_counts_as_soon_as_it_is_asked_for():
    good = jobqueue("Delete")
    assert deletion.policy_of({"spec": {"deletion": {"policy": "Retain"}, "schedules": "broken"}}, good) == "Retain"
    assert deletion.policy_of({"spec": {"deletion": {"policy": "Drain"}}}, good) == "Delete"
    assert deletion.policy_of({"spec": {}}, good) == "Delete"
