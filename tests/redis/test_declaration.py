"""What a JobQueue writes to Redis, and what it leaves alone."""

import asyncio
import contextlib
import json
import time

import pytest
import redis

from bullpen.api import files
from bullpen.clients.shell import RedisShell, run
from bullpen.queue.declaration import OwnedElsewhere, Owner, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.base import do
from bullpen.redis.settings import RedisSettings

KEYS = QueueKeys("bull", "emails")
OURS = Owner("cluster-a", "shop", "emails", uid="1")


@pytest.fixture
def client(bullpen_redis):
    with contextlib.closing(redis.Redis.from_url(bullpen_redis, decode_responses=True)) as client:
        yield client


@pytest.fixture
def apply(bullpen_redis):
    """Write a JobQueue of this spec, as its owner; gives the names of what changed. `breaks_off`: after it alone, without schedules."""

    class Shell(RedisShell):
        def perform(self, operation, *, timeout):
            apply.round_trips += 1
            return super().perform(operation, timeout=timeout)

    def apply(spec="", *, owner=OURS, adopt=False, breaks_off=False):
        apply.round_trips = 0
        text = "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {name: emails}\nspec: {" + spec + "}\n"
        loaded = files.loads(text)
        assert not loaded.findings
        declaration = WriteDeclaration.of(loaded.jobqueues[0], KEYS, owner, adopt=adopt)

        async def write():
            shell = Shell(RedisSettings.from_url(bullpen_redis), timeout=5)
            steps = do(declaration) if breaks_off else declare(declaration, 0)
            try:
                return await run(shell, steps, timeout=5, now=time.monotonic)
            finally:
                await shell.close()

        return set(asyncio.run(write()))

    return apply


def test_limits_that_node_obeys_too_are_written_where_bullmq_has_them(apply, client):
    apply("concurrency: {total: 5}, rateLimit: {jobs: 10, per: 1m}")
    meta = client.hgetall(KEYS.meta)
    assert (meta["concurrency"], meta["max"], meta["duration"]) == ("5", "10", "60000")


def test_the_same_twice_changes_nothing(apply):
    assert apply("concurrency: {total: 5}, timeout: 1m") == {"concurrency", "policy"}
    assert apply("concurrency: {total: 5}, timeout: 1m") == set()


def test_that_nothing_has_changed_is_found_in_one_round_trip(apply):
    spec = "paused: true, schedules: [{name: sweep, every: 1h, job: sweep}]"
    assert apply(spec) == {"pause", "policy", "schedule sweep"}
    assert apply.round_trips > 1
    assert apply(spec) == set()
    assert apply.round_trips == 1


def test_the_policy_names_its_content(apply, client):
    apply("timeout: 1m, limits: {waiting: 7}")
    stored = client.hgetall(KEYS.policy)
    assert stored["v"] == "1"
    assert json.loads(stored["doc"])["timeout"] == "1m"
    assert json.loads(stored["doc"])["limits"]["waiting"] == 7
    before = stored["rev"]
    apply("timeout: 2m")
    assert client.hget(KEYS.policy, "rev") != before


def test_what_the_spec_no_longer_says_goes_while_it_is_still_ours(apply, client):
    apply("concurrency: {total: 5}, rateLimit: {jobs: 10, per: 1s}")
    client.hset(KEYS.meta, "concurrency", 9)  # somebody else's wish
    assert apply("") == {"max", "duration", "policy"}
    assert client.hgetall(KEYS.meta) == {"concurrency": "9"}


def test_what_others_set_is_left(apply, client):
    client.hset(KEYS.meta, mapping={"version": "bullmq:6.7.0", "max": "3"})
    apply("")
    assert client.hgetall(KEYS.meta) == {"version": "bullmq:6.7.0", "max": "3"}


def test_what_the_spec_says_wins_over_what_others_set(apply, client):
    client.hset(KEYS.meta, "concurrency", 9)
    assert "concurrency" in apply("concurrency: {total: 5}")
    assert client.hget(KEYS.meta, "concurrency") == "5"


def test_paused_has_three_states(apply, client):
    client.lpush(KEYS.wait, "1")
    assert "pause" in apply("paused: true")
    assert client.hexists(KEYS.meta, "paused")
    assert not client.exists(KEYS.marker)
    assert "resume" in apply("")
    assert not client.hexists(KEYS.meta, "paused")
    assert client.exists(KEYS.marker)


def test_a_pause_of_somebody_elses_is_left_unless_the_spec_says_otherwise(apply, client):
    client.hset(KEYS.meta, "paused", 1)
    apply("")
    assert client.hexists(KEYS.meta, "paused")
    assert "resume" in apply("paused: false")
    assert not client.hexists(KEYS.meta, "paused")


@pytest.mark.parametrize("paused_by", ["spec", "removal"])
def test_what_was_not_resumed_because_it_broke_off_is_resumed_the_next_time(apply, client, paused_by):
    apply("paused: true" if paused_by == "spec" else "")
    if paused_by == "removal":
        client.hset(KEYS.meta, "paused", 1)
        client.hset(KEYS.owned, "purging", 1)
    assert "resume" in apply("", breaks_off=True)
    assert client.hexists(KEYS.meta, "paused")
    assert "resume" in apply("")
    assert not client.hexists(KEYS.meta, "paused")
    client.hset(KEYS.meta, "paused", 1)  # by somebody else, since
    assert apply("") == set()
    assert client.hexists(KEYS.meta, "paused")


def test_a_raised_limit_wakes_an_idle_worker(apply, client):
    apply("concurrency: {total: 1}")
    client.delete(KEYS.marker)
    apply("concurrency: {total: 2}")
    assert client.zscore(KEYS.marker, "0") == 0


def test_a_change_is_told_to_the_workers(apply, client):
    listener = client.pubsub()
    listener.subscribe(KEYS.nudge)
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    apply("timeout: 1m")
    assert listener.get_message(timeout=5)["data"] == "policy"
    listener.close()


def test_another_owners_queue_is_not_touched(apply, client):
    apply("concurrency: {total: 5}")
    before = {key: client.hgetall(key) for key in (KEYS.owner, KEYS.owned, KEYS.policy, KEYS.meta)}
    with pytest.raises(OwnedElsewhere, match=r"'emails'.*belongs to 'cluster-a/shop/emails', not to 'cluster-b/shop/"):
        apply("concurrency: {total: 1}, paused: true", owner=Owner("cluster-b", "shop", "emails"))
    assert {key: client.hgetall(key) for key in before} == before


def test_a_jobqueue_that_is_made_anew_takes_its_queue_again(apply, client):
    apply("")
    apply("timeout: 1m", owner=Owner("cluster-a", "shop", "emails", uid="2"))
    assert client.hget(KEYS.owner, "uid") == "2"


def test_a_released_queue_and_an_adopted_one_change_hands(apply, client):
    other = Owner("cluster-b", "shop", "emails")
    apply("")
    apply("", owner=other, adopt=True)
    assert client.hget(KEYS.owner, "id") == other.id
    client.hset(KEYS.owner, "released", "1")
    apply("")
    assert client.hgetall(KEYS.owner)["id"] == OURS.id
    assert client.hget(KEYS.owner, "released") == "0"
