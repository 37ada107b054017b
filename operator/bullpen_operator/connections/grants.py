"""Gives each JobQueue its way to its queue: a user in Redis that can touch that queue alone, and the Secret that says so.

A reconcile calls `ensure` each time; what was found right minutes ago is not read again. The user is there before the Secret
tells anybody of it, so a new password is never known to a worker before it is known to Redis.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from bullpen.api.v1alpha1 import JobQueue
from bullpen.errors import BullpenError
from bullpen.redis.settings import RedisSettings
from bullpen_operator.connections import binding, resolve
from bullpen_operator.connections.acl import Confines
from bullpen_operator.connections.binding import Account, Plan
from bullpen_operator.connections.pool import Redis
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.resolve import Objects, Resolved
from bullpen_operator.connections.users import Users, Wanted
from bullpen_operator.kube import kinds
from bullpen_operator.kube.kinds import Key, Kind, Object

LOOK_AGAIN: Final = timedelta(minutes=5)
_MARGIN_SECONDS: Final = 1.0  # the clock of the loop and that of the Secret are two


class BindingNameTaken(BullpenError):
    """There is a Secret of the binding's name, and it is no binding."""

    reason = "BindingNameTaken"


class Writes(Protocol):
    """What is asked of the API server."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Give an object; None where there is none."""
        ...

    async def apply(self, obj: Object, manager: str = ..., *, force: bool = ..., dry_run: bool = ...) -> Object:
        """Apply an object on the server's side."""
        ...


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked for; the same again is answered from memory for a while."""

    uid: str
    found: Resolved
    rotate: str
    queues: tuple[str, ...]
    settings: RedisSettings


@dataclass(frozen=True, slots=True)
class _Given:
    request: _Request
    until: datetime


class Grants:
    """See the module. `again` is told which JobQueue to have ensured again, and in how many seconds."""

    def __init__(
        self,
        kube: Writes,
        cache: Objects,
        users: Users,
        *,
        operator_namespace: str,
        now: Callable[[], datetime],
        again: Callable[[Key, float], None] = lambda *_: None,
        generate: Callable[[], str] = lambda: secrets.token_urlsafe(32),
        rotate_after: timedelta = binding.ROTATE_AFTER,
    ) -> None:
        self._kube = kube
        self._cache = cache
        self._users = users
        self._operator_namespace = operator_namespace
        self._now = now
        self._again = again
        self._generate = generate
        self._rotate_after = rotate_after
        self._given: dict[tuple[str, str], _Given] = {}
        self._at: dict[tuple[str, str], RedisRef] = {}

    async def ensure(self, obj: Object, jobqueue: JobQueue, found: Resolved, redis: Redis) -> str:
        """Make user and Secret as they are to be; give the Secret's name.

        Only for a queue that is the JobQueue's own. Raises `RedisUnavailable`, `UsersRefused`, `BindingNameTaken`, `KubeError`.
        """
        metadata = obj["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        tokens = (found.rotate, (metadata.get("annotations") or {}).get(resolve.ROTATE_ANNOTATION, ""))
        rotate = "/".join(tokens) if any(tokens) else ""
        given = self._given.get((namespace, name))
        # Whoever asks for other passwords has changed the connection's own, perhaps.
        settings = await redis.endpoints.current(anew=given is not None and given.request.rotate != rotate)
        request = _Request(metadata["uid"], found, rotate, self._queues(jobqueue, found), settings)
        now = self._now()
        if given is not None and given.request == request and now < given.until:
            return binding.secret_name(name)
        await self._leave(namespace, name, found)
        existing = await self._kube.get(kinds.SECRET, namespace, binding.secret_name(name))
        if existing is not None and not binding.is_ours(existing, name):
            msg = (
                f'Secret "{binding.secret_name(name)}" in namespace "{namespace}" is not of Bullpen\'s making: rename it, '
                "the queue's binding needs the name"
            )
            raise BindingNameTaken(msg)
        planned = await self._account(self._users.name(namespace, name), request, existing, redis, now)
        wanted = self._secret(namespace, name, jobqueue, request, planned)
        if not binding.same(wanted, existing):
            await self._kube.apply(wanted)
        if planned.before is not None and planned.again is not None:  # else it would be valid until the next resync
            after = (planned.again - now).total_seconds() + _MARGIN_SECONDS
            self._again(Key(kinds.JOBQUEUE, namespace, name), after)
        again = now + LOOK_AGAIN
        self._given[namespace, name] = _Given(request, again if planned.again is None else min(again, planned.again))
        return binding.secret_name(name)

    async def drop(self, key: Key, found: Resolved, redis: Redis) -> None:
        """Take the user away; the Secret goes with its owner. Raises `RedisUnavailable`, `UsersRefused`."""
        self._given.pop((key.namespace, key.name), None)
        self._at.pop((key.namespace, key.name), None)
        if found.users == "Managed":
            await self._users.drop(redis.ref, self._users.name(key.namespace, key.name))

    def renew(self) -> None:
        """Forget what was found right: this operator leads anew, and another may have replaced passwords meanwhile."""
        self._given.clear()
        self._at.clear()
        self._users.renew()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _leave(self, namespace: str, name: str, found: Resolved) -> None:
        """Where the queue was on another Redis before, or the users are not managed any more, want no user there."""
        before = self._at.pop((namespace, name), None)
        if before is not None and (before != found.ref or found.users != "Managed"):
            self._users.forget(before, self._users.name(namespace, name), for_good=found.users != "Managed")
        if found.users == "Managed":
            self._at[namespace, name] = found.ref

    async def _account(
        self, user: str, request: _Request, existing: Object | None, redis: Redis, now: datetime
    ) -> Plan:
        settings = request.settings
        if request.found.users == "Shared":
            self._users.disown(redis, user)
            password = settings.password.get_secret_value() if settings.password is not None else None
            return Plan(Account(settings.username, password))
        planned = binding.plan(
            existing,
            username=user,
            connection=str(request.found.connection_key),
            rotate=request.rotate,
            now=now,
            generate=self._generate,
            rotate_after=self._rotate_after,
        )
        confines = Confines(request.found.prefix, request.queues, settings.db)
        await self._users.put(redis, user, Wanted(confines, planned.hashes))
        return planned

    def _secret(self, namespace: str, name: str, jobqueue: JobQueue, request: _Request, planned: Plan) -> Object:
        return binding.secret(
            namespace=namespace,
            jobqueue=name,
            uid=request.uid,
            queue=jobqueue.queue_name,
            prefix=request.found.prefix,
            connection=str(request.found.connection_key),
            rotate=request.rotate,
            settings=request.settings,
            planned=planned,
            with_certificate=request.found.users == "Shared",
        )

    def _queues(self, jobqueue: JobQueue, found: Resolved) -> tuple[str, ...]:
        """Give the queue, and its dead-letter queue: that of a JobQueue of the same namespace, on the same connection, which owns it."""
        own = jobqueue.queue_name
        dead = jobqueue.spec.dead_letter
        namespace = jobqueue.metadata.namespace or ""
        obj = None if dead is None else self._cache.get(kinds.JOBQUEUE, namespace, dead.job_queue_ref.name)
        if obj is None:
            return (own,)
        try:
            other = JobQueue.model_validate({**obj, "status": None}, extra="ignore")
        except ValueError:
            return (own,)
        theirs = resolve.resolve(other, self._cache, operator_namespace=self._operator_namespace)
        same = isinstance(theirs, Resolved) and (theirs.ref, theirs.prefix) == (found.ref, found.prefix)
        theirs_own = same and _owns(obj, other.queue_name, found.prefix)
        return (own, other.queue_name) if theirs_own and other.queue_name != own else (own,)


def _owns(obj: Object, queue: str, prefix: str) -> bool:
    """Say whether the JobQueue was found to own this queue: its spec alone makes no queue its own."""
    status = obj.get("status") or {}
    return status.get("queue") == {"name": queue, "prefix": prefix} and any(
        each.get("type") == "QueueOwned" and each.get("status") == "True" for each in status.get("conditions") or ()
    )
