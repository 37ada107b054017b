"""The connection against a transport in memory: every way that bytes can come in, and what they may not do."""

import asyncio
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.redis.failures import ConnectionLost, ReplyError
from bullpen.redis.wire import Connection, pack_command


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.ended = ""

    def write(self, data):
        self.writes.append(bytes(data))

    def close(self):
        self.ended = self.ended or "closed"

    def abort(self):
        self.ended = self.ended or "aborted"


def connected(**options) -> tuple[Connection, Wire]:
    connection = Connection(where="here", **options)
    wire = Wire()
    connection.connection_made(wire)
    return connection, wire


def feed(connection: Connection, data: bytes) -> None:
    buffer = connection.get_buffer(-1)
    for start in range(0, len(data), len(buffer)):
        part = data[start : start + len(buffer)]
        buffer[: len(part)] = part
        connection.buffer_updated(len(part))


def encoded(reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case ReplyError():
            return b"-%b\r\n" % str(reply).encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))
    raise AssertionError(reply)


def plain(reply):
    if isinstance(reply, ReplyError):
        return ("error", str(reply))
    return [plain(item) for item in reply] if isinstance(reply, list) else reply


words = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=8)
error_replies = st.builds(lambda word, rest: ReplyError(f"{word} {rest}"), words, words)
scalars = st.one_of(st.none(), st.binary(max_size=200), st.integers(-(2**63), 2**63 - 1), error_replies)
replies = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


@st.composite
def chunked_streams(draw):
    """Replies, each to a call of its own or in a batch, some of whose callers are gone, and a cut of their bytes."""
    groups = draw(
        st.lists(st.tuples(st.lists(replies, min_size=1, max_size=4), st.booleans(), st.booleans()), max_size=12)
    )
    stream = b"".join(encoded(reply) for group, _, _ in groups for reply in group)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    edges = [0, *cuts, len(stream)]
    return groups, [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(chunked_streams(), st.booleans())
def test_any_cut_of_a_stream_gives_each_caller_its_own_reply(stream, eager):
    groups, chunks = stream

    async def scenario():
        connection, _ = connected(eager=eager)
        waiting = []
        for group, batched, gone in groups:
            futures = (
                [connection.call_many(b"x" * len(group), len(group))]
                if batched
                else [connection.call(b"x") for _ in group]
            )
            if gone:
                for future in futures:
                    future.cancel()
            waiting.append(futures)
        await asyncio.sleep(0)
        for chunk in chunks:
            feed(connection, chunk)
        assert connection.backlog == 0
        for (group, batched, gone), futures in zip(groups, waiting, strict=True):
            if gone:
                assert all(future.cancelled() for future in futures)
            elif batched:
                assert plain(await futures[0]) == plain(group)
            else:
                for reply, future in zip(group, futures, strict=True):
                    if isinstance(reply, ReplyError):
                        assert str(future.exception()) == str(reply)
                    else:
                        assert plain(future.result()) == plain(reply)
        connection.close()

    asyncio.run(scenario())


@given(st.lists(st.one_of(st.binary(), st.text(), st.integers()), min_size=1, max_size=20))
def test_a_packed_command_is_an_array_of_its_words(words):
    expected = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert pack_command(*words) == encoded(expected)


@pytest.mark.parametrize("word", [None, True, ["x"], {"x": 1}, object()])
def test_a_word_of_another_type_is_refused(word):
    with pytest.raises(TypeError):
        pack_command("SET", word)


async def test_calls_of_one_turn_are_one_write():
    connection, wire = connected(eager=False)
    futures = [connection.call(b"%d;" % n) for n in range(5)]
    assert wire.writes == []
    await asyncio.sleep(0)
    assert wire.writes == [b"0;1;2;3;4;"]
    feed(connection, b":1\r\n" * 5)
    assert [await future for future in futures] == [1] * 5


async def test_an_eager_connection_writes_a_lone_call_at_once_and_joins_the_rest():
    connection, wire = connected(eager=True)
    for n in range(4):
        connection.call(b"%d;" % n)
    assert wire.writes == [b"0;"]
    await asyncio.sleep(0)
    assert wire.writes == [b"0;", b"1;2;3;"]
    connection.close()


async def test_what_replies_wake_is_written_in_the_same_turn():
    connection, wire = connected(eager=False)
    turns = []

    async def caller(n):
        await connection.call(b"a%d;" % n)
        connection.call(b"b%d;" % n)
        turns.append(len(wire.writes))

    tasks = [asyncio.create_task(caller(n)) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert wire.writes == [b"a0;a1;a2;"]
    feed(connection, b"+OK\r\n" * 3)
    await asyncio.sleep(0)  # the woken callers, and behind them the flush
    await asyncio.gather(*tasks)
    assert turns == [1, 1, 1]
    assert wire.writes[1:] == [b"b0;b1;b2;"]
    connection.close()


async def test_a_lost_connection_says_of_each_command_whether_it_was_sent():
    connection, _ = connected(eager=False)
    gone_out = connection.call(b"1")
    batch_out = connection.call_many(b"22", 2)
    await asyncio.sleep(0)
    kept = connection.call(b"3")
    batch_kept = connection.call_many(b"44", 2)
    lost = []
    connection.on_lost = lost.append
    connection.connection_lost(None)
    for future, sent in ((gone_out, True), (batch_out, True), (kept, False), (batch_kept, False)):
        with pytest.raises(ConnectionLost) as caught:
            await future
        assert caught.value.sent is sent
    assert len(lost) == 1
    with pytest.raises(ConnectionLost) as caught:
        connection.call(b"5")
    assert caught.value.sent is False
    await connection.wait_closed()


async def test_a_peer_that_takes_no_bytes_holds_writes_back():
    connection, wire = connected(eager=True)
    connection.pause_writing()
    held = connection.call(b"held")
    await asyncio.sleep(0)
    assert wire.writes == []
    draining = asyncio.create_task(connection.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    connection.resume_writing()
    await draining
    assert wire.writes == [b"held"]
    feed(connection, b"+OK\r\n")
    assert await held == b"OK"
    connection.pause_writing()
    lost = connection.call(b"never")
    draining = asyncio.create_task(connection.drain())
    await asyncio.sleep(0)
    connection.abort("gone")
    with pytest.raises(ConnectionLost):
        await draining
    with pytest.raises(ConnectionLost) as caught:
        await lost
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"+OK\r\n+OK\r\n", "nobody waits for"),
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak Redis' protocol"),
        # Where the kernel gives memory before it has it, the length is believed, and what follows counts.
        (
            b"*4000000000\r\n" + b":1\r\n" * 2_000,
            "does not speak Redis' protocol: too large|a reply of more than 4096 bytes",
        ),
        (b"$100000\r\n" + b"x" * 5_000, "a reply of more than 4096 bytes"),
        (b"*3\r\n" + b":1\r\n" * 2 + b"$100000\r\n" + b"x" * 5_000, "a reply of more than 4096 bytes"),
    ],
    ids=["one too many", "not Redis", "absurd length", "endless text", "endless in a list"],
)
async def test_a_hostile_server_costs_the_connection_and_no_more(data, says):
    connection, wire = connected(max_reply_bytes=4096)
    future = connection.call(b"x")
    for start in range(0, len(data), 1000):
        feed(connection, data[start : start + 1000])
        if connection.lost is not None:
            break
    assert connection.lost is not None
    assert re.search(says, str(connection.lost))
    assert wire.ended == "aborted"
    if data.startswith(b"+OK"):
        assert await future == b"OK"
    else:
        with pytest.raises(ConnectionLost):
            await future


async def test_an_answer_to_what_was_not_sent_costs_the_connection():
    connection, _ = connected(eager=False)
    future = connection.call(b"x")
    feed(connection, b"+OK\r\n")
    assert connection.lost is not None
    assert future.done()


async def test_closing_twice_is_closing_once_and_flushes():
    connection, wire = connected(eager=False)
    future = connection.call(b"last")
    connection.close()
    connection.close()
    assert wire.writes == [b"last"]
    assert wire.ended == "closed"
    with pytest.raises(ConnectionLost) as caught:
        await future
    assert caught.value.sent is True


async def test_refused_credentials_in_the_middle_end_the_connection_after_all_replies_are_out():
    connection, _ = connected()
    connection.established = True
    first, second, third = connection.call(b"1"), connection.call(b"2"), connection.call(b"3")
    await asyncio.sleep(0)
    feed(connection, b"+OK\r\n-NOAUTH Authentication required.\r\n+OK\r\n")
    assert await first == b"OK"
    with pytest.raises(ReplyError) as caught:
        await second
    assert caught.value.code == "NOAUTH"
    assert await third == b"OK"


async def test_nobody_who_is_woken_by_a_stale_connection_uses_it_again():
    connection, wire = connected()
    connection.established = True
    first, behind = connection.call(b"1"), connection.call(b"2")
    await asyncio.sleep(0)
    feed(connection, b"-READONLY You can't write against a read only replica.\r\n")
    with pytest.raises(ReplyError):
        await first
    with pytest.raises(ConnectionLost, match="READONLY"):
        await behind
    with pytest.raises(ConnectionLost) as caught:
        connection.call(b"3")
    assert caught.value.sent is False
    assert wire.writes == [b"1", b"2"]
