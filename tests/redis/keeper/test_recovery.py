"""What the dead ran comes back, and each death is accounted for once."""

from __future__ import annotations

import asyncio

import pytest

from bullpen_worker.keeping.keeper import Keeper
from bullpen_worker.keeping.recovery import Death, worker_name
from tests.support.keeping import PASSING, SELF, TERMS, Line, dead
from tests.support.waiting import eventually


async def check(keeper, client, queue):
    """One check, as if the interval had passed."""
    await client.delete(queue.keys.stalled_check)
    return await keeper.check()


async def die(queue, *job_ids):
    for job_id in job_ids:
        await queue.forget_lock(job_id)


async def test_a_running_job_is_left_alone(queue, keeper, client):
    await queue.start("7", dead())
    await check(keeper, client, queue)
    await check(keeper, client, queue)
    assert await queue.active() == ["7"]


async def test_the_job_of_a_dead_worker_waits_again_as_the_next(queue, keeper, client, notes):
    await queue.start("7", dead())
    await queue.add("8")
    await check(keeper, client, queue)
    await die(queue, "7")
    await check(keeper, client, queue)
    assert await queue.waiting() == ["8", "7"]
    assert await queue.active() == []
    assert await client.zscore(queue.keys.marker, "0") == 0
    [decision] = notes.decisions
    assert (decision.id, decision.death) == ("7", Death.ALONE)
    assert await queue.field("7", "bullpen:crashes") == "1"
    assert await queue.field("7", "bullpen:suspect") == "1"
    assert await queue.field("7", "stc") == "1"
    assert await queue.field("7", "atm") is None


async def test_a_death_in_company_makes_suspect_at_the_second_and_never_quarantines(queue, keeper, client):
    jobs = ["1", "2", "3"]
    for job_id in jobs:
        await queue.add(job_id)
    for deaths in range(1, 7):
        for _ in jobs:
            await queue.fetch(dead(deaths))
        await check(keeper, client, queue)
        await die(queue, *jobs)
        await check(keeper, client, queue)
        assert await queue.active() == []
        for job_id in jobs:
            assert await queue.field(job_id, "bullpen:company") == str(deaths)
            assert await queue.field(job_id, "bullpen:crashes") == "0"
            assert await queue.field(job_id, "bullpen:suspect") == ("1" if deaths >= 2 else None)
            assert await queue.field(job_id, "defa") is None


async def test_alone_with_its_worker_it_is_quarantined_after_max_crashes(queue, keeper, client, notes):
    await queue.add("7")
    for deaths in range(1, 4):
        await queue.fetch(dead(deaths))
        await check(keeper, client, queue)
        await die(queue, "7")
        await check(keeper, client, queue)
        assert (await queue.field("7", "defa") is not None) is (deaths == 3)
    assert await queue.field("7", "defa") == "quarantined: its worker died 3 times while it ran"
    assert notes.decisions[-1].quarantines
    assert await queue.waiting() == ["7"]


async def test_the_last_lock_to_run_out_is_not_taken_for_the_only_job(queue, keeper, client):
    await queue.start("1", dead())
    await queue.start("2", dead(), lock_ms=TERMS.lock_ms // 3)
    await check(keeper, client, queue)
    await die(queue, "1")
    await check(keeper, client, queue)
    assert await queue.waiting() == []
    await die(queue, "2")
    await check(keeper, client, queue)
    assert sorted(await queue.waiting()) == ["1", "2"]
    for job_id in ("1", "2"):
        assert await queue.field(job_id, "bullpen:company") == "1"


async def test_what_a_dead_worker_fetched_last_comes_back_with_the_others(queue, keeper, client):
    await queue.start("1", dead())
    await check(keeper, client, queue)
    await queue.start("2", dead())  # since the last check: nobody has marked it
    await die(queue, "1", "2")
    await check(keeper, client, queue)
    assert sorted(await queue.waiting()) == ["1", "2"]
    assert await queue.field("2", "bullpen:company") == "1"


async def test_a_worker_with_a_fresh_lock_lives_and_only_lost_this_one(queue, keeper, client, notes):
    await queue.start("1", dead())
    await queue.start("2", dead(), lock_ms=60_000)
    await check(keeper, client, queue)
    await die(queue, "1")
    await check(keeper, client, queue)
    assert await queue.waiting() == ["1"]
    assert await queue.active() == ["2"]
    assert await queue.field("1", "bullpen:deaths") is None
    assert [decision.death for decision in notes.decisions] == [Death.NONE]


async def test_our_own_lost_lock_is_no_death(queue, keeper, client):
    await queue.start("1", SELF)
    await check(keeper, client, queue)
    await die(queue, "1")
    await check(keeper, client, queue)
    assert await queue.waiting() == ["1"]
    assert await queue.field("1", "bullpen:deaths") is None


@pytest.mark.parametrize("worker", ["node-worker", ""])
async def test_a_foreign_worker_s_jobs_are_never_quarantined(queue, keeper, client, worker):
    await queue.add("1")
    for _ in range(5):
        await queue.fetch(worker)
        if not worker:
            await client.hdel(queue.keys.job("1"), "pb")
        await check(keeper, client, queue)
        await die(queue, "1")
        await check(keeper, client, queue)
    assert await queue.waiting() == ["1"]
    assert await queue.field("1", "bullpen:company") == "5"
    assert await queue.field("1", "defa") is None


async def test_a_job_that_was_removed_while_it_ran_leaves_nothing(queue, keeper, client):
    await queue.start("1", dead())
    await check(keeper, client, queue)
    await client.delete(queue.keys.job("1"), queue.keys.lock("1"))
    await check(keeper, client, queue)
    assert await queue.active() == []
    assert await queue.waiting() == []
    assert await client.exists(queue.keys.job("1")) == 0


async def test_a_scheduler_s_job_is_quarantined_too(queue, keeper, client):
    await client.hset(queue.keys.scheduler("nightly"), "name", "work")
    await client.zadd(queue.keys.repeat, {"nightly": 1})
    await queue.add("1", rjk="nightly", **{"bullpen:crashes": 2})
    await queue.fetch(dead())
    await check(keeper, client, queue)
    await die(queue, "1")
    await check(keeper, client, queue)
    assert (await queue.field("1", "defa")).startswith("quarantined")


async def test_two_keepers_at_once_count_a_death_once(queue, keeper, client, notes, bullpen_redis):
    other_line = Line(bullpen_redis)
    other = Keeper(
        other_line, queue.keys, name=worker_name("other", "1" * 12), hooks=notes, passing=PASSING, terms=TERMS
    )
    for number in range(1, 41):
        await queue.add("7")
        await queue.fetch(dead(number))
        await client.sadd(queue.keys.stalled, "7")
        await die(queue, "7")
        await client.delete(queue.keys.stalled_check)
        await asyncio.gather(keeper.check(), other.check())
        assert await queue.waiting() == ["7"]
        assert await queue.field("7", "bullpen:crashes") == "1"
        await client.flushall()
    assert len(notes.decisions) == 40
    await other_line.close()


async def test_a_decision_does_not_hold_for_a_later_start(queue, keeper, client, line):
    await queue.start("7", dead(1))
    await client.sadd(queue.keys.stalled, "7")
    await die(queue, "7")
    ask, answers = line.eval, []

    async def restart_after_the_first_answer(script, keys, args):
        reply = await ask(script, keys, args)
        answers.append(reply[0])
        if len(answers) == 1:  # somebody else recovers it, another worker starts it, and dies
            await client.lrem(queue.keys.active, 1, "7")
            await client.rpush(queue.keys.wait, "7")
            await queue.fetch(dead(2))
            await die(queue, "7")
        return reply

    line.eval = restart_after_the_first_answer
    await keeper.check()
    assert answers == [b"dead", b"dead", b"done"]
    assert await queue.field("7", "bullpen:deaths") == f"a:{dead(2)}"


async def test_checks_are_shared_by_all_workers(queue, keeper, client, line):
    assert await keeper.check() >= TERMS.check_ms
    wait_ms = await keeper.check()
    assert 0 < wait_ms <= TERMS.check_ms + 20
    assert line.calls == 2
    await client.delete(queue.keys.stalled_check)
    assert await keeper.check() >= TERMS.check_ms


async def test_a_thousand_jobs_of_one_dead_worker(queue, keeper, client):
    for number in range(1000):
        await queue.add(f"job{number}")
        await queue.fetch(dead())
    await check(keeper, client, queue)
    await die(queue, *(f"job{number}" for number in range(1000)))
    await check(keeper, client, queue)
    assert len(await queue.waiting()) == 1000
    assert await queue.field("job999", "bullpen:company") == "1"


async def test_a_killed_worker_s_jobs_are_back(queue, keeper):
    """Its locks run out, and the second check after that is the last that may pass; `make prove` says how long it takes."""
    await queue.start("1", dead())
    await queue.start("2", dead())
    task = asyncio.create_task(keeper._check_for_ever())

    async def back():
        return len(await queue.waiting()) == 2

    await eventually(back)
    task.cancel()
