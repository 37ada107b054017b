"""Users where things go wrong: a server that means ill, a change that did not get through, another that came between."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import redis

from bullpen import embedded
from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import RedisUnavailable
from bullpen.redis.wire import Reply
from bullpen_operator.cache import Cache
from bullpen_operator.connections import acl
from bullpen_operator.connections import users as module
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.grants import Grants
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.resolve import Resolved
from bullpen_operator.connections.users import Users, Wanted
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import NotLeading
from bullpen_operator.kube.kinds import Key
from support.secrets import Secrets
from tests.support.impostor import impostor, text
from tests.support.waiting import eventually

EMAILS = acl.user_name("c1", "shop", "emails")
IMAGES = acl.user_name("c1", "shop", "images")
NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST, SECOND = (acl.password_hash(word) for word in ("first", "second"))


def wanted(*queues: str, password: str = FIRST) -> Wanted:
    return Wanted(Confines("shop", queues), (password,))


class Room:
    """Users on some Redises, looked after."""

    def __init__(self, redises: Redises) -> None:
        self.redises = redises
        self.existing = {("shop", "emails"), ("shop", "images")}
        self.now = 0.0
        self.leads = True
        self.cluster = "c1"
        self.users = Users(
            redises,
            cluster=lambda: self.cluster,
            exists=lambda *names: names in self.existing,
            leading=lambda: self.leads,
            monotonic=lambda: self.now,
        )
        self.task = asyncio.create_task(self.users.run())

    async def redis(self, url: str) -> Redis:
        found = await self.redises.of(RedisRef(url.rsplit("/", 1)[0] + "/0", "infra", id=url))
        await eventually(lambda: found.up or found.trouble)
        return found


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with Redises(Secrets()) as redises:
        made = Room(redises)
        yield made
        made.task.cancel()
        await asyncio.wait([made.task])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)


def known(url: str) -> dict[str, dict[str, object]]:
    """The users of a server but the default one, by name."""
    with contextlib.closing(redis.Redis.from_url(url, decode_responses=True, protocol=2)) as raw:
        return {name: dict(raw.acl_getuser(name) or {}) for name in raw.acl_users() if name != "default"}


def passwords(url: str, user: str) -> object:
    return known(url).get(user, {}).get("passwords")


# -- a server that means ill -----------------------------------------------------------------------------------------


STRANGE = {
    "a version of five thousand digits": b"redis_version:" + b"9" * 5000,
    "a version in no digits of ours": "redis_version:\u00b2.\u0663".encode(),
    "nothing but colons": b":\n" * 100_000,
}
LOGS = {
    "lists for names": b"*1\r\n*2\r\n*1\r\n:1\r\n$4\r\nauth\r\n",
    "no list": b":5\r\n",
    "none of its own": b"*-1\r\n",
}


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("info", STRANGE.values(), ids=STRANGE)
async def test_what_one_server_answers_keeps_no_other_from_being_looked_after(
    own: embedded.Server, room: Room, info: bytes, log: bytes
) -> None:
    lives = itertools.count()
    looks: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"INFO":
            return text(b"run_id:%d\r\n" % next(lives) + info)
        if command[:2] == [b"ACL", b"LOG"]:
            looks.append(log)
            return log
        return b"+OK\r\n"

    async with impostor(answer) as url:
        bad, good = await room.redis(url), await room.redis(own.url)
        with contextlib.suppress(Exception):
            await room.users.put(bad, EMAILS, wanted("emails"))
        await room.users.put(good, EMAILS, wanted("emails"))
        await eventually(lambda: len(looks) >= 3)
        assert not room.task.done()
        with contextlib.closing(redis.Redis.from_url(own.url)) as raw:
            raw.acl_deluser(EMAILS)
        await eventually(lambda: EMAILS in known(own.url))


# -- what did not get through ----------------------------------------------------------------------------------------


async def test_what_redis_did_not_take_is_not_believed_to_be_there(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await room.redis(own.url)
    await room.users.put(there, EMAILS, wanted("emails"))
    exchange = there.exchange

    async def lost(packed: bytes, count: int, **options: float) -> list[Reply]:
        if b"SETUSER" in packed:
            raise RedisUnavailable("cut")
        return await exchange(packed, count, **options)

    narrow = wanted("emails", password=SECOND)
    monkeypatch.setattr(there, "exchange", lost)
    with pytest.raises(RedisUnavailable):
        await room.users.put(there, EMAILS, narrow)
    with pytest.raises(RedisUnavailable):  # the same again is no less true
        await room.users.put(there, EMAILS, narrow)
    assert passwords(own.url, EMAILS) == [FIRST]
    monkeypatch.setattr(there, "exchange", exchange)
    await eventually(lambda: passwords(own.url, EMAILS) == [SECOND])


async def test_one_that_redis_refuses_keeps_no_other_from_being_set(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await room.redis(own.url)
    refused = wanted("two words")  # which no pattern can name
    with pytest.raises(module.UsersRefused):
        await room.users.put(there, IMAGES, refused)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    await room.users.put(there, EMAILS, wanted("emails"))
    own.restart()
    await eventually(lambda: EMAILS in known(own.url))
    assert not room.task.done()


async def test_what_is_put_while_all_are_set_again_is_not_set_back(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await room.redis(own.url)
    for user in (EMAILS, IMAGES):
        await room.users.put(there, user, wanted("x"))
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    exchange, came = there.exchange, []

    async def between(packed: bytes, count: int, **options: float) -> list[Reply]:
        replies = await exchange(packed, count, **options)
        if b"SETUSER" in packed and not came:
            came.append(packed)
            for user in (EMAILS, IMAGES):
                await room.users.put(there, user, wanted("x", password=SECOND))
        return replies

    monkeypatch.setattr(there, "exchange", between)
    with contextlib.closing(redis.Redis.from_url(own.url)) as raw:

        def set_again() -> bool:
            raw.acl_deluser(EMAILS)  # more than once: what was under way may have set it again
            return bool(came)

        await eventually(set_again)
    await eventually(lambda: passwords(own.url, EMAILS) == [SECOND])
    await room.users.look(there.ref)
    assert passwords(own.url, IMAGES) == [SECOND]


async def test_a_save_that_did_not_get_through_is_made_again(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await room.redis(own.url)
    call, saves = there.call, []

    async def broken(*words: object, **options: object) -> Reply:
        if words == ("ACL", "SAVE"):
            saves.append(words)
            if len(saves) < 3:
                raise RedisUnavailable("cut")
            return b"OK"
        return await call(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(there, "call", broken)
    await room.users.put(there, EMAILS, wanted("emails"))
    await eventually(lambda: len(saves) >= 3)


# -- those who move ---------------------------------------------------------------------------------------------------


async def test_who_moves_to_another_account_on_the_same_redis_keeps_their_user(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all do when a connection names another Secret, or other certificates: the operator's own business."""
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.0)
    before = await room.redis(own.url)
    after = await room.redises.of(replace(before.ref, namespace="other"))
    await eventually(lambda: after.up)
    tenant = Wanted(Confines("shop", ("emails",)), (acl.password_hash("mine"),))
    await room.users.put(before, EMAILS, tenant)
    await room.users.put(before, IMAGES, wanted("images"))
    with contextlib.closing(redis.Redis.from_url(own.url, username=EMAILS, password="mine")) as connected:
        me = connected.execute_command("HGET", "shop:emails:meta", "x")
        assert me is None
        held = connected.connection_pool.get_connection()
        room.users.forget(before.ref, EMAILS)
        await room.users.put(after, EMAILS, tenant)
        for _ in range(2):  # one by one they move
            await room.users.look(before.ref)
        room.users.forget(before.ref, IMAGES)
        await room.users.put(after, IMAGES, wanted("images"))
        await eventually(lambda: before.ref not in room.users._servers)
        held.send_command("PING")
        assert held.read_response() in {b"PONG", "PONG"}  # else its connection was cut off
        connected.connection_pool.release(held)
    assert known(own.url).keys() == {EMAILS, IMAGES}


@pytest.mark.parametrize("stay", [{IMAGES}, set()], ids=["others stay", "nobody stays"])
async def test_who_moves_to_another_redis_leaves_no_user_behind(
    own: embedded.Server,
    redis_binary: embedded.Binary,
    room: Room,
    monkeypatch: pytest.MonkeyPatch,
    stay: set[str],
) -> None:
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.0)
    with embedded.start(binary=redis_binary, unix=False) as other:
        before, after = await room.redis(own.url), await room.redis(other.url)
        for user in {EMAILS, *stay}:
            await room.users.put(before, user, wanted("x"))
        room.users.forget(before.ref, EMAILS)
        for _ in range(2):  # while it is not known there it may be needed here
            await room.users.look(before.ref)
        assert EMAILS in known(own.url)
        await room.users.put(after, EMAILS, wanted("emails"))
        await eventually(lambda: known(own.url).keys() == stay)
        assert known(other.url).keys() == {EMAILS}
        await eventually(lambda: (before.ref in room.users._servers) is bool(stay))


async def test_who_works_as_the_connection_itself_keeps_a_user_until_all_pods_have_heard_of_it(
    own: embedded.Server, room: Room
) -> None:
    there = await room.redis(own.url)
    await room.users.put(there, EMAILS, wanted("emails"))
    room.users.forget(there.ref, EMAILS, for_good=True)
    await eventually(lambda: EMAILS in room.users._servers[there.ref].orphans)
    room.now = module.DISOWNED_SECONDS - 1
    await room.users.look(there.ref)
    assert known(own.url).keys() == {EMAILS}
    room.now = module.DISOWNED_SECONDS
    await eventually(lambda: known(own.url) == {})
    await eventually(lambda: room.users._servers == {})


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_connection_that_becomes_a_shared_one_leaves_no_user_of_its_jobqueues(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    monkeypatch.setattr(module, "DISOWNED_SECONDS", 0.0)
    there, secrets = await room.redis(own.url), Secrets()
    managed = Resolved(there.ref, "shop", Key(kinds.CLUSTER_REDIS_CONNECTION, "", "shared"), "Managed")
    obj = {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": "emails", "namespace": "shop", "uid": "u"},
        "spec": {},
    }
    for found in (managed, replace(managed, users="Shared")):
        if restarted or found is managed:
            grants = Grants(secrets, Cache(), room.users, operator_namespace="infra", now=lambda: NOW)
            room.users.renew()
        await grants.ensure(obj, JobQueue.model_validate(obj), found, there)
        assert ("username" in secrets.data("shop", "emails-binding")) is (found is managed)
    await eventually(lambda: known(own.url) == {})


async def test_a_user_whom_an_operator_before_this_one_left_is_taken_away(own: embedded.Server, room: Room) -> None:
    there = await room.redis(own.url)
    with contextlib.closing(redis.Redis.from_url(own.url)) as raw:
        raw.acl_setuser(EMAILS, enabled=True)
    room.users.disown(there, EMAILS)
    await eventually(lambda: EMAILS in room.users._servers[there.ref].orphans)
    room.users.disown(there, EMAILS)  # as at each reconcile
    room.now = module.DISOWNED_SECONDS
    await eventually(lambda: known(own.url) == {})
    await eventually(lambda: room.users._servers == {})
    room.users.disown(there, EMAILS)
    assert room.users._servers == {}


async def test_an_account_that_may_not_look_is_asked_once(own: embedded.Server, room: Room) -> None:
    there = await room.redis(own.url)
    with contextlib.closing(redis.Redis.from_url(own.url)) as raw:
        raw.execute_command("ACL", "SETUSER", "default", "-acl", "+acl|log")  # Redis before 7 has no -acl|users
        raw.acl_log_reset()
        room.users.disown(there, EMAILS)
        await eventually(lambda: room.users._servers == {})
        assert [entry["count"] for entry in raw.acl_log()] == [1]


async def test_who_is_wanted_again_stays(own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISOWNED_SECONDS", 0.0)
    there = await room.redis(own.url)
    room.users.disown(there, EMAILS)
    await room.users.put(there, EMAILS, wanted("emails"))
    for _ in range(2):
        await room.users.look(there.ref)
    assert known(own.url).keys() == {EMAILS}


async def test_who_lost_the_lead_between_question_and_answer_changes_no_user(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an operator that was frozen, and wakes with an answer of before: another has replaced passwords meanwhile."""
    room.task.cancel()
    await asyncio.wait([room.task])  # nobody else looks
    there = await room.redis(own.url)
    await room.users.put(there, EMAILS, wanted("emails"))
    exchange = there.exchange

    async def frozen(packed: bytes, count: int, **options: float) -> list[Reply]:
        replies = await exchange(packed, count, **options)
        if b"INFO" in packed:
            room.leads = False
        return replies

    monkeypatch.setattr(there, "exchange", frozen)
    with contextlib.closing(redis.Redis.from_url(own.url)) as raw:
        raw.acl_deluser(EMAILS)
        with pytest.raises(NotLeading):
            await room.users.look(there.ref)
        assert known(own.url) == {}
        room.existing.clear()
        raw.acl_setuser(EMAILS, enabled=True)
        monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.0)
        with pytest.raises(NotLeading):
            await room.users.look(there.ref)
        assert known(own.url).keys() == {EMAILS}


# -- those whom nobody wants -----------------------------------------------------------------------------------------


async def test_users_are_taken_away_also_where_no_jobqueue_is_left(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.0)
    gone, others = acl.user_name("c1", "shop", "gone"), acl.user_name("c2", "shop", "gone")
    there = await room.redis(own.url)
    with contextlib.closing(redis.Redis.from_url(own.url)) as raw:
        for user in (gone, others, EMAILS):
            raw.acl_setuser(user, enabled=True)
    room.cluster = ""
    room.users.attend(there)
    assert room.users._servers == {}  # whose users are whose is not known yet
    room.cluster = "c1"
    room.users.attend(there)
    await eventually(lambda: known(own.url).keys() == {others, EMAILS})
    await eventually(lambda: room.users._servers == {})
    room.users.attend(there)  # is asked for at each look at a connection, and done once
    assert room.users._servers == {}


async def test_who_is_wanted_for_a_jobqueue_that_is_gone_is_wanted_no_more(
    own: embedded.Server, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its namespace was no longer selected at the end: nobody says by which connection it had its user."""
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.0)
    there = await room.redis(own.url)
    for user in (EMAILS, IMAGES):
        await room.users.put(there, user, wanted("x"))
    room.existing.remove(("shop", "emails"))
    await eventually(lambda: known(own.url).keys() == {IMAGES})
    own.restart()
    await eventually(lambda: known(own.url).keys() == {IMAGES}, 10)


async def test_a_redis_that_is_gone_with_its_users_is_not_looked_for_for_ever(own: embedded.Server, room: Room) -> None:
    there = await room.redis(own.url)
    await room.users.put(there, EMAILS, wanted("emails"))
    own.kill()
    await eventually(lambda: not there.up)
    room.existing.clear()
    with pytest.raises(RedisUnavailable):
        await room.users.drop(there.ref, EMAILS)
    await eventually(lambda: room.users._servers[there.ref].away_since is not None)
    assert there.ref in room.users._servers
    room.now = module.GIVE_UP_SECONDS
    await eventually(lambda: room.users._servers == {})
    own.restart()
    await eventually(lambda: there.up, 10)
    await room.users.put(there, IMAGES, wanted("images"))
    assert IMAGES in known(own.url)
