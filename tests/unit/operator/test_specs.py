"""How JobQueues are read in a running operator: each spec is checked once, and a check that takes long delays nobody."""

import asyncio
import time

import pytest

from bullpen.api import checks
from bullpen_operator import specs
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key

KEY = Key(kinds.JOBQUEUE, "shop", "emails")
SCHEMA = {"payloadSchema": {"type": "object"}}


def obj(**spec):
    return {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": "emails", "namespace": "shop"},
        "spec": spec,
    }


@pytest.fixture
def checked(monkeypatch):
    """The specs that were checked."""
    seen, check = [], checks.check

    def counted(jobqueue):
        seen.append(jobqueue.spec)
        return check(jobqueue)

    monkeypatch.setattr(checks, "check", counted)
    return seen


async def test_a_spec_is_checked_once_and_so_is_the_last_good_one(checked):
    reader = specs.Reader()
    bad = {"payloadSchema": {"type": "nonsense"}}
    for _ in range(3):
        assert (await reader.read(KEY, obj(**bad))).problem.reason == "InvalidSpec"
        assert (await reader.read(KEY, obj(**SCHEMA))).jobqueue is not None
    assert len(checked) == 2
    await reader.read(KEY, obj())
    await reader.read(KEY, obj(**bad))
    assert len(checked) == 4  # no more than two are remembered
    reader.forget(KEY)
    await reader.read(KEY, obj(**bad))
    assert len(checked) == 5


async def test_a_schema_that_takes_long_to_check_stops_nothing_else(monkeypatch):
    began = asyncio.Event()
    loop = asyncio.get_running_loop()
    done = False
    in_vain = []

    def slow(jobqueue):
        loop.call_soon_threadsafe(began.set)
        until = time.monotonic() + 30
        while not done and time.monotonic() < until:
            pass
        in_vain.append(not done)
        return ()

    monkeypatch.setattr(checks, "check", slow)
    reading = asyncio.create_task(specs.Reader().read(KEY, obj(**SCHEMA)))
    await began.wait()
    done = True
    assert (await reading).jobqueue is not None
    assert in_vain == [False]  # were it done in the loop, nobody would come to say so
