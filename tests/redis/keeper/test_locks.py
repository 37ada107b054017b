"""Locks are renewed while their jobs run, and a lost one is told."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from bullpen.queue.keys import QueueKeys
from bullpen_worker.keeping.keeper import Keeper
from tests.support.keeping import PASSING, SELF, TERMS, Line, now_ms
from tests.support.waiting import eventually


async def hold(queue, table, slot, job_id, token="token"):
    await queue.start(job_id, SELF, token)
    return table.occupy(slot, job_id=job_id.encode(), token=token.encode(), started_ms=now_ms())


async def test_one_call_renews_all_jobs_of_all_tables(queue, keeper, table, notes, line, client):
    for slot in range(3):
        await hold(queue, table, slot, f"job{slot}", f"token{slot}")
    await client.sadd(queue.keys.stalled, "job0", "job1")
    task = asyncio.create_task(keeper._renew_for_ever())
    await eventually(lambda: notes.kept >= 9)
    task.cancel()
    assert notes.lost_jobs == []
    assert line.calls <= 5
    for slot in range(3):
        assert await client.pttl(queue.keys.lock(f"job{slot}")) > TERMS.lock_ms / 4
    assert await client.scard(queue.keys.stalled) == 0


async def test_jobs_that_end_soon_cost_no_call(queue, keeper, table, line):
    await hold(queue, table, 0, "job0")
    await keeper.renew()
    table.clear(0)
    await keeper.renew()
    assert line.calls == 0


@pytest.mark.parametrize(("before_ms", "after_ms"), [(800, 20_000), (6_000, 1_500)])
async def test_another_duration_by_the_policy_costs_no_running_job_its_lock(
    queue, keeper, table, notes, client, before_ms, after_ms
):
    keeper.terms = dataclasses.replace(TERMS, lock_ms=before_ms)
    await queue.start("job0", SELF, "token", before_ms)
    table.occupy(0, job_id=b"job0", token=b"token", started_ms=now_ms() - before_ms // 3)
    task = asyncio.create_task(keeper._renew_for_ever())
    try:
        await eventually(lambda: notes.kept >= 1)
        keeper.terms = dataclasses.replace(TERMS, lock_ms=after_ms)
        changed = now_ms()
        while now_ms() < changed + 2 * min(before_ms, after_ms):
            assert await client.exists(queue.keys.lock("job0"))
            assert notes.lost_jobs == []
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_lock_that_is_gone_is_told_once(queue, keeper, table, notes, client):
    await hold(queue, table, 0, "kept")
    await hold(queue, table, 1, "gone")
    await hold(queue, table, 2, "stolen")
    await client.delete(queue.keys.lock("gone"))
    await client.set(queue.keys.lock("stolen"), "another", px=60_000)
    task = asyncio.create_task(keeper._renew_for_ever())
    await eventually(lambda: notes.kept >= 3)
    task.cancel()
    assert sorted(notes.lost_jobs) == [b"gone", b"stolen"]
    assert await client.get(queue.keys.lock("stolen")) == b"another"


async def test_a_job_that_just_finished_is_no_loss(queue, keeper, table, notes, line, client):
    await hold(queue, table, 0, "done")
    await client.delete(queue.keys.lock("done"))
    ask = line.eval

    async def finish_meanwhile(script, keys, args):
        reply = await ask(script, keys, args)
        asyncio.get_running_loop().call_later(0.01, table.clear, 0)  # its own answer arrives a little later
        return reply

    line.eval = finish_meanwhile
    keeper._clock_ms = lambda: now_ms() + TERMS.lock_ms // 2
    await keeper.renew()
    assert line.calls == 1
    assert notes.lost_jobs == []


async def test_while_redis_is_frozen_locks_are_let_go_of_in_time(redis_server, table, notes):
    line = Line(redis_server.url)
    keeper = Keeper(line, QueueKeys("bull", "mail"), name=SELF, hooks=notes, passing=PASSING, terms=TERMS)
    keeper.watch(table)
    await line.eval(keeper._extend, ["x"], ["b", b"\x90", b"\x90", 1])
    started = now_ms()
    table.occupy(0, job_id=b"job", token=b"token", started_ms=started)
    redis_server.freeze()
    task = asyncio.create_task(keeper._renew_for_ever())
    try:
        await eventually(lambda: notes.lost_jobs == [b"job"])
        assert now_ms() - started >= TERMS.lock_ms
        assert notes.failures
    finally:
        redis_server.thaw()
        task.cancel()
        await line.close()
