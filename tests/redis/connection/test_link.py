"""Links over a server's life: killed, restarted, frozen, moved, its passwords rotated."""

import asyncio
import contextlib

import pytest

from bullpen import embedded
from bullpen.errors import EnqueueUncertain, RedisUnavailable
from bullpen.queue import lua
from bullpen.redis import link as links
from bullpen.redis.failures import ConnectFailed, ConnectionLost, LinkDied, ReplyError, ReplyTimeout
from bullpen.redis.link import Link, LinkState
from bullpen.redis.settings import RedisSettings
from bullpen.redis.wire import pack_command
from support.proxy import proxy
from support.waiting import Stopwatch, eventually

ECHO = lua.script("echo", "return {KEYS[1], ARGV[1]}", 1)
INCREMENT = lua.script("increment", "return redis.call('INCR', KEYS[1])", 1)
BROKEN = lua.script("broken", "return redis.call('HGET', KEYS[1], 'a')", 1)


def settings(server: embedded.Server, **changes) -> RedisSettings:
    return RedisSettings.from_url(server.url).model_copy(update=changes)


def patient(server: embedded.Server, **options) -> Link:
    return Link(settings(server), patient=True, **options)


# -- patient ---------------------------------------------------------------------------------------------------


async def test_a_patient_link_lives_through_restarts_and_kills(own):
    states = []
    async with patient(own, on_state=lambda state, _: states.append(state)) as link:
        assert await link.call("SET", "a", 1) == b"OK"
        await asyncio.to_thread(own.restart)
        assert await link.call("GET", "a") == b"1"
        await asyncio.to_thread(own.kill)
        await eventually(lambda: "connection refused" in link.reason)
        assert link.state is LinkState.DOWN
        assert link.connection is None
        with pytest.raises(ConnectFailed, match="connection refused"):
            await link.ready(within=0.05)
        waiting = asyncio.create_task(link.call("DBSIZE"))
        await asyncio.to_thread(own.restart)
        assert isinstance(await asyncio.wait_for(waiting, 60), int)
        assert link.counts.connects == 3
        assert link.counts.losses == 2
    assert states[0] is LinkState.READY
    assert states[-1] is LinkState.CLOSED
    with pytest.raises(ConnectFailed, match="closed"):
        await link.ready()


async def test_a_patient_link_waits_for_a_server_that_is_not_there_yet(own):
    await asyncio.to_thread(own.kill)
    async with patient(own) as link:
        waiting = asyncio.create_task(link.ready())
        await eventually(lambda: link.counts.failures >= 2)
        assert not waiting.done()
        await asyncio.to_thread(own.restart)
        connection = await asyncio.wait_for(waiting, 60)
        assert await connection.call(pack_command("PING")) == b"PONG"


async def test_a_command_under_way_when_the_server_dies_is_lost_aloud(own):
    async with patient(own) as link:
        blocked = asyncio.create_task(link.block(pack_command("BZPOPMIN", "nothing", 20), seconds=20))
        connection = await link.ready()
        await eventually(lambda: connection.backlog == 1)
        await asyncio.to_thread(own.kill)
        with pytest.raises(ConnectionLost) as caught:
            await blocked
        assert caught.value.sent is True


async def test_a_frozen_server_is_given_up_and_found_again(own):
    async with patient(own, timeout=0.3) as link:
        connection = await link.ready()
        own.freeze()
        raw = connection.call(pack_command("PING"))
        with pytest.raises(ReplyTimeout):
            await asyncio.wait_for(raw, 60)
        assert link.state is LinkState.DOWN
        own.thaw()
        assert await link.call("PING") == b"PONG"


async def test_a_blocking_command_is_watched(own):
    async with patient(own, blocking=True) as link:
        assert await link.block(pack_command("BZPOPMIN", "empty", "0.01"), seconds=0.01) is None
        own.execute(b"ZADD", b"full", b"0", b"0")
        assert await link.block(pack_command("BZPOPMIN", "full", 5), seconds=5) == [b"full", b"0", b"0"]
        own.freeze()
        with pytest.raises(ReplyTimeout, match=r"within 1\.05 s"):
            await link.block(pack_command("BZPOPMIN", "empty", "0.05"), seconds=0.05)
        own.thaw()


async def test_a_demoted_primary_is_left(own):
    async with patient(own) as link:
        first = await link.ready()
        own.execute(b"REPLICAOF", b"127.0.0.1", b"1")
        with pytest.raises(ReplyError, match="READONLY"):
            await link.call("SET", "a", 1)
        await eventually(lambda: first.lost is not None)
        own.execute(b"REPLICAOF", b"NO", b"ONE")
        assert await link.call("SET", "a", 1) == b"OK"


# -- not patient -----------------------------------------------------------------------------------------------


async def test_a_client_without_a_server_fails_at_once_and_says_where(own):
    await asyncio.to_thread(own.kill)
    link = Link(settings(own, origin="BULLPEN_REDIS_URL"), patient=False)
    with pytest.raises(
        RedisUnavailable,
        match=r"Redis at 127\.0\.0\.1:\d+/0 \(BULLPEN_REDIS_URL\) cannot be reached: connection refused",
    ):
        await link.call("PING")
    await asyncio.to_thread(own.restart)
    assert await link.call("PING") == b"PONG"
    await link.close()
    with pytest.raises(RedisUnavailable, match="closed"):
        await link.call("PING")


async def test_a_client_of_a_frozen_server_fails_within_its_timeout(own):
    link = Link(settings(own), patient=False, timeout=0.2)
    assert await link.call("SET", "a", 1) == b"OK"
    own.freeze()
    for error in (EnqueueUncertain, RedisUnavailable):  # first on the open connection, then connecting anew
        with Stopwatch() as watch, pytest.raises(error) as caught:
            await link.call("SET", "a", 2)
        assert watch.seconds < 2
        assert type(caught.value) is error
        assert f"{link.where}" in str(caught.value)
    own.thaw()
    assert await link.call("GET", "a", timeout=60) in {b"1", b"2"}
    await link.close()


async def test_callers_at_once_share_one_attempt(shared):
    link = Link(settings(shared), patient=False)
    assert sorted(await asyncio.gather(*(link.call("INCR", "n") for _ in range(200)))) == list(range(1, 201))
    assert link.counts.connects == 1
    await link.close()


async def test_a_caller_that_is_cancelled_while_connecting_leaves_the_attempt_to_the_others(shared):
    link = Link(settings(shared), patient=False)
    first = asyncio.create_task(link.call("PING"))
    second = asyncio.create_task(link.call("PING"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"PONG"
    assert link.counts.connects == 1
    await link.close()


async def test_a_link_that_is_closed_while_it_connects_fails_its_callers_and_cancels_nobody(own):
    own.freeze()
    link = Link(settings(own), patient=False)
    calls = [asyncio.create_task(link.call("PING")) for _ in range(2)]
    await asyncio.sleep(0.05)
    await link.close()
    own.thaw()
    for call in calls:
        with pytest.raises(RedisUnavailable, match="closed"):
            await call
    assert (link.counts.connects, link.connection) == (0, None)  # nobody would close it


async def test_a_lost_reply_is_uncertain_and_repeated_only_where_that_is_harmless(shared):
    async with proxy(shared.url) as front:
        link = Link(RedisSettings.from_url(front.url), patient=False, timeout=60)
        await link.call("PING")
        front.lose_replies = True
        call = asyncio.create_task(link.call("INCR", "n"))
        await eventually(lambda: shared.execute(b"GET", b"n") == b"$1\r\n1\r\n")
        front.cut()
        with pytest.raises(EnqueueUncertain, match="may or may not"):
            await call
        front.lose_replies = False
        assert await link.call("GET", "n") == b"1"
        front.lose_replies = True
        read = asyncio.create_task(link.call("GET", "n", repeatable=True))
        connection = await link.ready()
        await eventually(lambda: connection.backlog == 1)
        front.lose_replies = False
        front.cut()
        assert await read == b"1"
        front.refuse = True
        front.cut()
        with pytest.raises(RedisUnavailable) as caught:
            await eventually(lambda: link.call("GET", "n", repeatable=True))
        assert type(caught.value) is RedisUnavailable
        await link.close()


@pytest.mark.parametrize(
    ("prepare", "restore", "says"),
    [
        ((b"CONFIG", b"SET", b"maxmemory", b"1"), (b"CONFIG", b"SET", b"maxmemory", b"0"), "OOM.*its memory is full"),
        ((b"REPLICAOF", b"127.0.0.1", b"1"), (b"REPLICAOF", b"NO", b"ONE"), "READONLY.*it is a replica"),
        (
            (b"CONFIG", b"SET", b"min-replicas-to-write", b"1"),
            (b"CONFIG", b"SET", b"min-replicas-to-write", b"0"),
            "NOREPLICAS.*fewer replicas",
        ),
    ],
)
async def test_a_server_that_refuses_writes_is_unavailable_with_a_hint(shared, prepare, restore, says):
    link = Link(settings(shared), patient=False)
    shared.execute(*prepare)
    try:
        with pytest.raises(RedisUnavailable, match=says):
            await link.call("SET", "a", 1)
    finally:
        shared.execute(*restore)
    assert await link.call("SET", "a", 1) == b"OK"
    await link.close()


# -- scripts ---------------------------------------------------------------------------------------------------


async def test_scripts_are_loaded_where_redis_does_not_know_them(own):
    async with patient(own) as link:
        assert await link.eval(INCREMENT, ["n"]) == 1
        assert await link.eval(INCREMENT, ["n"]) == 2
        own.execute(b"SCRIPT", b"FLUSH")
        assert await link.eval(INCREMENT, ["n"]) == 3
        await asyncio.to_thread(own.restart)
        assert await link.eval(INCREMENT, ["n"]) == 4
        assert await link.eval(ECHO, [b"\xff"], [b"\x00"]) == [b"\xff", b"\x00"]
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await link.eval(BROKEN, ["n"])


async def test_scripts_are_loaded_once_for_a_connection(shared):
    async with patient(shared) as link:
        shared.execute(b"SCRIPT", b"FLUSH")
        await link.load([ECHO, INCREMENT])
        shared.execute(b"CONFIG", b"RESETSTAT")
        await link.load([ECHO, INCREMENT])
        assert b"cmdstat_script" not in shared.execute(b"INFO", b"commandstats")
        packed = pack_command("EVALSHA", ECHO.sha, 1, "k", "v")
        assert await link.send_many(packed * 3, 3) == [[b"k", b"v"]] * 3


# -- accounts and addresses ------------------------------------------------------------------------------------


async def test_a_rotated_password_is_taken_up_without_a_restart(binary, tmp_path):
    accounts = tmp_path / "users.acl"
    url = tmp_path / "url"

    def rotate(password: str) -> None:
        accounts.write_text(f"user default on >{password} ~* &* +@all\n")

    rotate("first")
    with embedded.start(binary=binary, unix=False, config={"aclfile": str(accounts)}) as server:
        address = server.url.removeprefix("redis://")
        url.write_text(f"redis://:first@{address}\n")
        async with Link(RedisSettings.from_file(url), patient=True) as link:
            assert await link.call("SET", "a", 1) == b"OK"
            rotate("second")
            await asyncio.to_thread(server.restart)
            await eventually(lambda: "refuses the user name or password" in link.reason)
            assert "first" not in link.reason
            url.write_text(f"redis://:second@{address}\n")
            assert await asyncio.wait_for(link.call("GET", "a"), 60) == b"1"
        client = Link(RedisSettings.from_file(url), patient=False)
        assert await client.call("GET", "a") == b"1"
        url.write_text(f"redis://:third@{address}\n")
        rotate("third")
        await asyncio.to_thread(server.restart)

        async def answers() -> bool:
            with contextlib.suppress(RedisUnavailable):  # it loads its data: a password says so to nobody else
                return await client.call("GET", "a", repeatable=True) == b"1"
            return False

        assert await eventually(answers)
        await client.close()


async def test_credentials_refused_on_a_live_connection_make_a_new_one(binary, tmp_path):
    url = tmp_path / "url"
    with embedded.start(binary=binary, unix=False) as server:
        server.execute(b"ACL", b"SETUSER", b"ada", b"on", b">one", b"~*", b"&*", b"+@all")
        address = server.url.removeprefix("redis://")
        url.write_text(f"redis://ada:one@{address}")
        async with Link(RedisSettings.from_file(url), patient=True) as link:
            assert await link.call("ACL", "WHOAMI") == b"ada"
            server.execute(b"ACL", b"SETUSER", b"bob", b"on", b">two", b"~*", b"&*", b"+@all")
            url.write_text(f"redis://bob:two@{address}")
            server.execute(b"ACL", b"DELUSER", b"ada")  # ends her connections
            assert await asyncio.wait_for(link.call("ACL", "WHOAMI", repeatable=True), 60) == b"bob"


@pytest.mark.parametrize("is_patient", [True, False])
async def test_a_moved_redis_is_followed(binary, shared, tmp_path, monkeypatch, is_patient):
    monkeypatch.setattr(links, "_STAMP_SECONDS", 0.02)
    url = tmp_path / "url"
    with embedded.start(binary=binary, unix=False) as second:
        url.write_text(shared.url)
        shared.execute(b"SET", b"name", b"first")
        second.execute(b"SET", b"name", b"second")
        link = Link(RedisSettings.from_file(url), patient=is_patient)
        async with link:
            assert await link.call("GET", "name") == b"first"
            url.write_text("half writ")
            assert await link.call("GET", "name") == b"first"
            url.write_text(second.url)

            async def moved() -> bool:
                return await link.call("GET", "name", repeatable=True) == b"second"

            assert await eventually(moved)
            assert link.counts.connects == 2


async def test_a_url_file_that_cannot_be_read_is_an_outage_for_the_patient_and_an_error_for_the_rest(shared, tmp_path):
    url = tmp_path / "url"
    url.write_text(shared.url)
    found = RedisSettings.from_file(url)
    url.write_text("half writ")
    async with Link(found, patient=True) as link:
        await eventually(lambda: "begins with redis://" in link.reason)
        url.write_text(shared.url)
        assert await asyncio.wait_for(link.call("PING"), 60) == b"PONG"
    url.unlink()
    client = Link(found, patient=False)
    with pytest.raises(Exception, match="the file cannot be read"):
        await client.call("PING")
    await client.close()


async def test_a_new_connection_is_asked_to_load_again(own):
    async with patient(own) as link:
        await link.load([ECHO])
        await asyncio.to_thread(own.restart)
        await eventually(lambda: link.counts.connects == 2)
        await link.load([ECHO])
        assert await link.send(pack_command("EVALSHA", ECHO.sha, 1, "k", "v")) == [b"k", b"v"]


class Broken:
    """Settings that nobody can read, for a reason that nobody foresaw."""

    where = "nowhere"

    def stamp(self):
        return 0

    async def current(self):
        await asyncio.sleep(0.02)
        raise RuntimeError("a bug")


async def test_who_waits_for_a_link_that_died_is_told(own):
    """A bug in what keeps the link must not look like an outage that never ends."""
    async with Link(Broken(), patient=True) as link:
        waiting = [asyncio.create_task(link.ready()) for _ in range(3)]
        for each in waiting:
            with pytest.raises(LinkDied, match="not running") as raised:
                await asyncio.wait_for(each, 60)
            assert "a bug" in repr(raised.value.__cause__)
