"""Local mode's session on a real Redis, without processes: what happens beside its loop does not end it."""

import asyncio
import itertools

import pytest
import redis

from bullpen.api.v1alpha1 import JobQueue
from bullpen.redis.settings import RedisSettings
from bullpen_cli.local import plan
from bullpen_cli.local.session import Session


class Said:
    """A view that keeps what is said."""

    gone = False

    def __init__(self):
        self.sentences = []

    def say(self, sentence, *, style=""):
        self.sentences.append(sentence)

    def hear(self, line):
        pass

    def show(self, picture):
        pass

    def close(self):
        pass


def plans(*names):
    head = {"apiVersion": "bullpen.dev/v1alpha1", "kind": "JobQueue", "spec": {}}
    queues = [JobQueue.model_validate({**head, "metadata": {"name": name}}) for name in names]
    return plan.plan_all(queues, prefix="bull", inherited={}, secrets={})


@pytest.fixture
def make(bullpen_redis):
    def make(queues, **options):
        said = Said()
        return Session(queues, RedisSettings.of(bullpen_redis), said, redis_name="test", **options), said

    return make


async def test_a_watch_that_fails_is_said_and_the_rest_goes_on(make):
    async def changes():
        raise OSError(28, "OS file watch limit reached")

    session, said = make(plans("emails"), until_idle=True, changes=changes, reload=lambda: plans("emails"))
    async with asyncio.timeout(60):
        assert await session.run() == 0
    assert "Changes of files are not noticed any more: [Errno 28] OS file watch limit reached" in said.sentences


async def test_queues_come_and_go_while_the_others_are_looked_at(make, bullpen_redis, monkeypatch):
    monkeypatch.setattr("bullpen_cli.local.session.TICK_SECONDS", 0.001)
    names = [f"q{number}" for number in range(20)]
    with redis.Redis.from_url(bullpen_redis) as client:
        client.lpush("bull:q19:wait", "7")  # never idle: nobody works on it
    turns = itertools.count(1)

    async def changes():
        await asyncio.sleep(0)
        return {"queues.yaml"}

    def reload():
        turn = next(turns)
        if turn == 40:
            session.stop()
        return plans(*names, *(["late"] if turn % 2 else []))

    session, said = make(plans(*names), until_idle=True, changes=changes, reload=reload)
    async with asyncio.timeout(60):
        assert await session.run() == 0
    assert said.sentences.count("late: new") >= 2
