"""Who writes statuses: one JobQueue that cannot be told of keeps no other from being told of."""

import asyncio
import contextlib
import datetime as dt

from bullpen_operator.cache import Cache
from bullpen_operator.conditions import Facts
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key
from bullpen_operator.reporting import Reporter
from tests.support.waiting import eventually


class Told:
    """An API server that takes statuses, and a recorder that takes events."""

    def __init__(self):
        self.names = []

    async def apply_status(self, obj, manager=""):
        self.names.append(obj["metadata"]["name"])
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "9"}}

    def record(self, *_, **__):
        pass


class Broken:
    """A scaler that knows something of `bad` that nobody foresaw."""

    def state(self, key):
        if key.name == "bad":
            msg = "year 146140482 is out of range"
            raise ValueError(msg)


class Quiet:
    """A scaler that knows nothing."""

    def state(self, key):
        return None


def reporter_of(told, cache, states):
    loop = asyncio.get_running_loop()
    return Reporter(
        told,
        cache,
        states,
        told,
        leads=lambda: True,
        clock=loop.time,
        random=lambda: 0.0,
        now=lambda: dt.datetime.now(dt.UTC),
        writes_per_second=1000,
    )


def know(cache, *names):
    for name in names:
        metadata = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"}
        cache.put(kinds.JOBQUEUE, {"metadata": metadata, "spec": {}})


@contextlib.asynccontextmanager
async def working(reporter):
    task = asyncio.create_task(reporter.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_one_of_which_nothing_can_be_told_keeps_no_other_from_it(caplog):
    cache, told = Cache(), Told()
    reporter = reporter_of(told, cache, Broken())
    know(cache, "bad", "good", "later")
    async with working(reporter) as task:
        for name in ("bad", "good"):
            reporter.put(Key(kinds.JOBQUEUE, "shop", name), Facts(generation=1), None)
        await eventually(lambda: told.names == ["good"])
        await eventually(lambda: "status_broke" in caplog.text)
        reporter.put(Key(kinds.JOBQUEUE, "shop", "later"), Facts(generation=1), None)
        await eventually(lambda: told.names == ["good", "later"])
        assert not task.done()


async def test_what_was_found_in_an_earlier_lead_is_not_told():
    cache, told = Cache(), Told()
    reporter = reporter_of(told, cache, Quiet())
    know(cache, "old", "new")
    async with working(reporter):
        reporter.put(Key(kinds.JOBQUEUE, "shop", "old"), Facts(generation=1), None)
        reporter.renew()
        reporter.touch(Key(kinds.JOBQUEUE, "shop", "old"))
        reporter.put(Key(kinds.JOBQUEUE, "shop", "new"), Facts(generation=2), None)
        await eventually(lambda: told.names)
        assert told.names == ["new"]
