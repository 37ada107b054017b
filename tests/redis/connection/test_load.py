"""Many calls, large replies and cancelled callers on one connection."""

import asyncio
import random

import pytest

from bullpen.redis.failures import ReplyTimeout
from bullpen.redis.handshake import connect
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import pack_command


@pytest.fixture
async def connection(shared):
    made = await connect(RedisSettings.from_url(shared.url))
    yield made
    made.close()
    await made.wait_closed()


async def test_ten_thousand_calls_at_once_each_get_their_own_answer(connection):
    replies = await asyncio.gather(*(connection.call(pack_command("ECHO", str(n))) for n in range(10_000)))
    assert replies == [str(n).encode() for n in range(10_000)]


async def test_cancelled_callers_take_nobody_elses_answer(connection):
    chance = random.Random(7)

    async def caller(n: int) -> bytes:
        return await connection.call(pack_command("ECHO", str(n)))

    for _ in range(20):
        tasks = [asyncio.create_task(caller(n)) for n in range(300)]
        cancelled = set(chance.sample(range(300), 150))
        # Some before they ran, some with their bytes written, some with the answer on its way.
        for round_, n in enumerate(sorted(cancelled, key=lambda _: chance.random())):
            if round_ % 30 == 29:
                await asyncio.sleep(0)
            tasks[n].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for n, result in enumerate(results):
            assert result == str(n).encode() or (n in cancelled and isinstance(result, asyncio.CancelledError))
    assert connection.backlog == 0


async def test_a_reply_of_64_megabytes(connection):
    size = 64 * 1024 * 1024
    assert await connection.call(pack_command("SETRANGE", "big", size - 1, "x")) == size
    reply = await connection.call(pack_command("GET", "big"))
    assert len(reply) == size
    assert reply[-1:] == b"x"
    assert await connection.call(pack_command("ECHO", "after")) == b"after"


async def test_a_reply_larger_than_allowed_ends_the_connection(shared):
    connection = await connect(RedisSettings.from_url(shared.url), max_reply_bytes=1_000_000)
    await connection.call(pack_command("SETRANGE", "big", 4_000_000, "x"))
    with pytest.raises(Exception, match="a reply of more than 1000000 bytes"):
        await connection.call(pack_command("GET", "big"))


async def test_a_hundred_megabytes_out_are_held_back_and_arrive(connection):
    value = b"v" * 1_000_000
    futures = []
    for n in range(100):
        futures.append(connection.call(pack_command("SET", f"k{n % 4}", value)))
        await asyncio.sleep(0)
        await connection.drain()
    assert await asyncio.gather(*futures) == [b"OK"] * 100


async def test_a_slow_answer_times_out_alone_while_others_come(connection):
    ahead = [connection.call(pack_command("BLPOP", "nothing", "0.2")) for _ in range(10)]
    with pytest.raises(ReplyTimeout):
        await connection.answer(pack_command("ECHO", "late"), within=1)
    assert connection.open
    assert await asyncio.gather(*ahead) == [None] * 10
    assert await connection.call(pack_command("ECHO", "after")) == b"after"


async def test_an_answer_that_blocks_everything_costs_the_connection(connection):
    slow = asyncio.create_task(connection.answer(pack_command("BLPOP", "nothing", 5), within=0.15))
    await asyncio.sleep(0)
    behind = connection.call(pack_command("ECHO", "behind"))
    for waiting in (slow, behind):
        with pytest.raises(ReplyTimeout):
            await waiting
    assert not connection.open


async def test_a_batch_with_errors_in_it(connection):
    packed = pack_command("SET", "a", "x") + pack_command("INCR", "a") + pack_command("GET", "a")
    ok, error, value = await connection.call_many(packed, 3)
    assert (ok, error.code, value) == (b"OK", "ERR", b"x")
    assert await connection.call_many(b"", 0) == []
