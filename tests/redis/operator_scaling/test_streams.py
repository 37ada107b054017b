"""Event streams that are waited for on a real Redis: who reads them, however they come and go."""

from __future__ import annotations

import asyncio
import contextlib

from bullpen_operator.scaling.streams import MOST_STREAMS, Streams
from tests.support.waiting import eventually

MANY = 2 * MOST_STREAMS


@contextlib.asynccontextmanager
async def watching(local):
    hits: list[str] = []
    lapses: list[str] = []
    streams: Streams[str] = Streams(lambda: local.blocking_link("wake"), hits.append, lapses.append)
    task = asyncio.create_task(streams.run())
    try:
        yield streams, hits
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def watch(streams, *names):
    for name in names:
        streams.watch(name, f"bull:{name}:events", b"0-0")


async def add(plain, name):
    await plain.xadd(f"bull:{name}:events", {"event": "added"})


async def test_readers_that_have_nothing_left_end_one_by_one_and_each_for_itself(local, plain):
    names = [f"q{number}" for number in range(MANY)]
    async with watching(local) as (streams, hits):
        watch(streams, *names)
        await eventually(lambda: streams.taken == MANY, timeout=15)
        first, last = streams._readers
        of_last = next(iter(last))
        # As when Redis goes: nothing is watched any more, while all readers still wait.
        for name in names:
            streams.forget(name)
        await add(plain, of_last)
        await eventually(lambda: len(streams._readers) == 1, timeout=15)
        assert streams._readers[0] is first, "who still reads is known"
        watch(streams, "late")
        await eventually(lambda: streams.watches("late"), timeout=15)
        await add(plain, "late")
        await eventually(lambda: hits == ["late"], timeout=15)


async def test_two_who_watch_one_stream_both_hear_of_it(local, plain):
    async with watching(local) as (streams, hits):
        for key in ("one", "other", "third"):
            streams.watch(key, "bull:shared:events", b"0-0")
        await eventually(lambda: streams.taken == 3, timeout=15)
        streams.forget("third")
        calls = streams.calls
        await add(plain, "shared")
        await eventually(lambda: sorted(hits) == ["one", "other"], timeout=15)
        assert len(streams) == 0
        assert streams.calls <= calls + 2, "what was heard of is not asked for again"
