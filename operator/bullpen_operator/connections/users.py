"""Keeps the users of JobQueues in Redis as they are wanted: sets them, looks after them, takes away those of nobody.

Model: what is wanted is remembered here, by Redis; `put` sets one user at once. One task (`run`) has a child for each Redis
with users. A child looks every few seconds, and as soon as its connection is made anew: whether the server is the one that it
was (`run_id`), whether our users are all there, whether a login of one was refused. Where something is amiss, all are set
again, in one pipeline. Redis keeps users in memory; where it has an `aclfile`, they are saved there, once for many changes.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from bullpen.errors import BullpenError, RedisUnavailable
from bullpen.redis.failures import ReplyError
from bullpen.redis.wire import Reply, pack_command
from bullpen_operator.connections import acl, answers
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.kube.errors import NotLeading

log = logging.getLogger("bullpen.operator.connections")

LOOK_SECONDS: Final = 3.0
RESYNC_SECONDS: Final = 600.0
ORPHAN_SECONDS: Final = 60.0
"""A user of a JobQueue that is not known to exist, or is on another Redis by now, goes when it was seen for so long."""
DISOWNED_SECONDS: Final = 600.0
"""Longer where its JobQueue works as the connection's own account by now: a kubelet takes minutes to tell its pods."""
LOG_AGAIN_SECONDS: Final = 60.0
"""A log that could not be read is looked at again after so long, and until then all users are set as often."""
GIVE_UP_SECONDS: Final = 600.0
"""A Redis that nobody uses any more is looked for so long, to take users away there."""
_AT_ONCE: Final = 100
_LOG_ENTRIES: Final = 16


class UsersRefused(BullpenError):
    """The connection's own account may not manage users."""

    reason = "UsersRefused"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one user is to be."""

    confines: Confines
    hashes: tuple[str, ...] = field(repr=False)


@dataclass
class _Server:
    """What is known of one Redis and its users."""

    redis: Redis
    users: dict[str, Wanted] = field(default_factory=dict)
    unset: set[str] = field(default_factory=set)
    """Those of which Redis has not said that they are as wanted."""
    unseen: bool = True
    """Whether it was never looked at."""
    away_since: float | None = None
    run_id: str = ""
    version: tuple[int, ...] = ()
    unsaved: bool = False
    has_file: bool = True
    set_at: float = 0.0
    log_unread_at: float | None = None
    """Since when the log of refused logins cannot be read."""
    refused_seen: frozenset[tuple[str, str]] = frozenset()
    orphans: dict[str, float] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)
    left: dict[str, bool] = field(default_factory=dict)
    """Those that are wanted here no more though their JobQueue is still there, and whether they are wanted nowhere."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None


class Users:
    """See the module.

    `cluster` gives what tells the users of this operator's JobQueues from all others: cluster and class; empty while that is
    not known. `exists` says whether
    there is a JobQueue of this namespace and name, or a pod of its workers.
    """

    def __init__(
        self,
        redises: Redises,
        *,
        cluster: Callable[[], str],
        exists: Callable[[str, str], bool],
        leading: Callable[[], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redises = redises
        self._cluster = cluster
        self._exists = exists
        self._leading = leading
        self._monotonic = monotonic
        self._servers: dict[RedisRef, _Server] = {}
        self._attended: set[RedisRef] = set()
        self._disowned: set[tuple[RedisRef, str]] = set()
        self._group: asyncio.TaskGroup | None = None
        redises.subscribe(self._connected)

    def name(self, namespace: str, jobqueue: str) -> str:
        """Give the name of a JobQueue's user."""
        return acl.user_name(self._cluster(), namespace, jobqueue)

    async def run(self) -> None:
        """Look after the users until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for server in self._servers.values():
                    self._watch(server)
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None

    async def put(self, redis: Redis, user: str, wanted: Wanted) -> None:
        """Have the user be as wanted, now and from now on. Raises `RedisUnavailable`, `UsersRefused`, `NotLeading`."""
        self._check_lead()
        server = self._server(redis)
        changed = server.users.get(user) != wanted or user in server.unset
        server.users[user] = wanted
        server.leaving.discard(user)
        server.left.pop(user, None)
        if changed or not server.run_id:
            server.unset.add(user)
            if not server.run_id:
                await self._identify(server)
            await self._set(server, (user,))

    async def drop(self, ref: RedisRef, user: str) -> None:
        """Want the user no more, and take it away once its JobQueue and the last of its workers are gone.

        Taking it away ends its connections, and a worker that is told to end still has jobs to finish. Raises
        `RedisUnavailable`, `UsersRefused`, `NotLeading`.
        """
        self._check_lead()
        server = self._server(await self._redises.of(ref))
        server.users.pop(user, None)
        server.leaving.add(user)
        await self._let_go(server)

    def forget(self, ref: RedisRef, user: str, *, for_good: bool = False) -> None:
        """Want the user no more, and leave it to the look-out to take it away, once it is wanted elsewhere, or `for_good`."""
        server = self._servers.get(ref)
        if server is not None and server.users.pop(user, None) is not None:
            server.left[user] = for_good

    def disown(self, redis: Redis, user: str) -> None:
        """Have the user taken away, where there is one: its JobQueue works as somebody else. Once while leading."""
        if (redis.ref, user) not in self._disowned and self._leading():
            self._disowned.add((redis.ref, user))
            server = self._servers.get(redis.ref) or self._server(redis, unseen=False)
            server.left[user] = True

    def attend(self, redis: Redis) -> None:
        """See to it that no user of a JobQueue that is gone is left there, also where no JobQueue uses it now. Once while leading."""
        if redis.ref not in self._attended and self._leading() and self._cluster():
            self._attended.add(redis.ref)
            self._server(redis)

    def renew(self) -> None:
        """Forget what is wanted: another operator led meanwhile, perhaps, and replaced passwords. All is put again."""
        self._attended.clear()
        self._disowned.clear()
        for server in self._servers.values():
            server.users.clear()
            server.left.clear()

    def _check_lead(self) -> None:
        if not self._leading():
            msg = "no user was changed in Redis: this operator does not lead"
            raise NotLeading(msg)

    # -- looking after one Redis -------------------------------------------------------------------------------

    def _server(self, redis: Redis, *, unseen: bool = True) -> _Server:
        server = self._servers.get(redis.ref)
        if server is None:
            server = self._servers[redis.ref] = _Server(redis, unseen=unseen, set_at=self._monotonic())
            self._watch(server)
        elif server.redis is not redis:
            server.redis = redis  # the pool had closed it meanwhile
        return server

    def _watch(self, server: _Server) -> None:
        if self._group is not None and server.task is None:
            server.task = self._group.create_task(self._keep(server), name=f"users on {server.redis.id}")

    def _connected(self, redis: Redis) -> None:
        server = self._servers.get(redis.ref)
        if server is not None and redis.up:
            server.wake.set()

    async def _keep(self, server: _Server) -> None:
        while self._is_worth_a_look(server):
            server.wake.clear()
            try:
                if self._leading():
                    server.redis = await self._redises.of(server.redis.ref)
                    await self.look(server.redis.ref)
                server.away_since = None
            except (RedisUnavailable, UsersRefused, ReplyError, NotLeading):
                if server.away_since is None:
                    server.away_since = self._monotonic()
            except Exception:  # what one tenant's Redis answers must not keep all others from being looked after
                log.exception("users_not_looked_after", extra={"redis": server.redis.id})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await server.wake.wait()
        server.task = None
        self._servers.pop(server.redis.ref, None)

    def _is_worth_a_look(self, server: _Server) -> bool:
        if server.users:
            return True
        away = server.away_since is not None and self._monotonic() - server.away_since >= GIVE_UP_SECONDS
        return not away and bool(server.unseen or server.unsaved or server.orphans or server.leaving or server.left)

    async def look(self, ref: RedisRef) -> None:
        """Look once, and mend what is amiss. Raises `RedisUnavailable`, `UsersRefused`, `ReplyError`, `NotLeading`."""
        server = self._servers[ref]
        left = set(server.left)
        commands = (pack_command("INFO", "server"), pack_command("ACL", "USERS"))
        info, users = await server.redis.exchange(b"".join(commands), len(commands))
        for reply in (info, users):
            if isinstance(reply, ReplyError):
                server.left.clear()  # who may not look may take nobody away
                raise self._refused(server.redis, reply)
        there = answers.names(users, acl.user_prefix(self._cluster()))
        server.unseen = False
        refused = answers.refused_logins(await self._log(server) if server.users else None)
        locked_out = {user for user, _ in refused - server.refused_seen} & server.users.keys()
        server.refused_seen = refused
        other = self._learn(server, info)
        server.unset &= server.users.keys()
        missing = server.users.keys() - there | server.unset
        resync = RESYNC_SECONDS if server.log_unread_at is None else LOG_AGAIN_SECONDS
        stale = self._monotonic() - server.set_at >= resync
        if server.users and (other or missing or stale):
            await self._set(server, tuple(server.users))
            server.set_at = self._monotonic()
            if missing or other:
                log.info("users_set_again", extra={"redis": server.redis.id, "missing": len(missing)})
        elif locked_out:
            await self._set(server, locked_out)
        await self._let_go(server)
        for user in left - there:  # not of those who left while it was asked
            server.left.pop(user, None)
        await self._sweep(server, there)
        if server.unsaved:
            await self._save(server)

    async def _log(self, server: _Server) -> Reply:
        """Read what was refused of late. Redis keeps it in full: names and keys of any length, of whoever tries them."""
        now = self._monotonic()
        if server.log_unread_at is not None and now - server.log_unread_at < LOG_AGAIN_SECONDS:
            return None
        try:
            found = await server.redis.call_aside("ACL", "LOG", _LOG_ENTRIES)
        except (RedisUnavailable, ReplyError):
            server.log_unread_at = now
            return None
        server.log_unread_at = None
        return found

    async def _identify(self, server: _Server) -> None:
        try:
            self._learn(server, await server.redis.call("INFO", "server"))
        except ReplyError as error:
            raise self._refused(server.redis, error) from error

    def _learn(self, server: _Server, info: Reply) -> bool:
        """Take in who the server is; say whether it is another than before."""
        fields = answers.fields_of(info)
        run_id = fields.get("run_id", "")
        if run_id == server.run_id:
            return False
        known, server.run_id = server.run_id, run_id
        server.version = answers.version_of(fields)
        server.has_file = True
        server.refused_seen = frozenset()
        return bool(known)

    async def _set(self, server: _Server, users: Iterable[str]) -> None:
        """Have these be as they are wanted when they are sent: what was put meanwhile is not set back."""
        refused: ReplyError | None = None
        names = tuple(users)
        for start in range(0, len(names), _AT_ONCE):
            self._check_lead()
            part = [(name, server.users[name]) for name in names[start : start + _AT_ONCE] if name in server.users]
            server.unset.update(name for name, _ in part)
            packed = b"".join(
                pack_command("ACL", "SETUSER", name, *acl.rules(wanted.confines, wanted.hashes, version=server.version))
                for name, wanted in part
            )
            replies = await server.redis.exchange(packed, len(part))
            for (name, wanted), reply in zip(part, replies, strict=True):
                if isinstance(reply, ReplyError):
                    refused = refused or reply
                elif server.users.get(name) is wanted:
                    server.unset.discard(name)
        server.unsaved = True
        if server.task is None:
            self._watch(server)
        if refused is not None:
            raise self._refused(server.redis, refused)

    async def _let_go(self, server: _Server) -> None:
        """Take away those who were dropped, where nobody works as them any more."""
        gone = [user for user in server.leaving if not self._is_needed(user)][:_AT_ONCE]
        if not gone:
            return
        self._check_lead()
        try:
            await server.redis.call("ACL", "DELUSER", *gone)
        except ReplyError as error:
            raise self._refused(server.redis, error) from error
        server.leaving.difference_update(gone)
        server.unsaved = True

    def _is_needed(self, user: str) -> bool:
        owner = acl.owner_of(user, self._cluster())
        return owner is not None and self._exists(*owner)

    async def _sweep(self, server: _Server, there: set[str]) -> None:
        """Take away users of JobQueues that are gone, that moved to another Redis, or that work as somebody else."""
        now = self._monotonic()
        ours = {user: owner for user in there if (owner := acl.owner_of(user, self._cluster())) is not None}
        for user in [each for each in server.left if server.run_id in self._wanted_at(each)]:
            del server.left[user]  # by another account of this same server
        gone_since: dict[str, float] = {}
        gone: list[str] = []
        for user, owner in ours.items():
            disowned = server.left.get(user, False)
            moved = user not in server.users and (disowned or self._elsewhere(server, user))
            exists = self._exists(*owner)
            if exists and not moved:
                continue
            since = gone_since[user] = server.orphans.get(user, now)
            if now - since >= (DISOWNED_SECONDS if exists and disowned else ORPHAN_SECONDS) and len(gone) < _AT_ONCE:
                gone.append(user)
        server.orphans = gone_since
        if gone:
            self._check_lead()
            for user in gone:
                server.users.pop(user, None)
            await server.redis.call("ACL", "DELUSER", *gone)
            server.unsaved = True
            log.info("users_of_nobody_removed", extra={"redis": server.redis.id, "users": len(gone)})

    def _elsewhere(self, here: _Server, user: str) -> bool:
        """Say whether the user is wanted on another Redis, and on no other account of what is or may be this same one."""
        others = self._wanted_at(user)
        return bool(others) and not {"", here.run_id} & others

    def _wanted_at(self, user: str) -> set[str]:
        return {server.run_id for server in self._servers.values() if user in server.users}

    async def _save(self, server: _Server) -> None:
        server.unsaved = False
        if not server.has_file:
            return
        try:
            await server.redis.call("ACL", "SAVE")
        except ReplyError:
            server.has_file = False  # Redis without an aclfile; or it may not be written, which its own log says
        except RedisUnavailable:
            server.unsaved = True
            raise

    def _refused(self, redis: Redis, error: ReplyError) -> UsersRefused:
        text = redis.redacted(str(error))
        return UsersRefused(
            f"the account of connection {redis.id} may not manage users: {text}; allow it ACL SETUSER, DELUSER, USERS, LOG and "
            "SAVE, or set spec.users to Shared"
        )
