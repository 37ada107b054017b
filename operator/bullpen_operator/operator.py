"""The operator from its start to its end: what it is made of, and which news leads to which work.

Concurrency model: `run` owns one task group in one event loop (Kopf alone has another, in a thread: `informers`). In it are the
election, the informers, the scaler, the workers of the queue of JobQueues to be reconciled, the writer of statuses, the
writer of events. Whichever of them dies takes the operator down, loudly; what concerns one JobQueue alone is caught where it
is worked on, and tried again later each time. SIGTERM cancels them all: the fence closes first, then the lease is let go.

Without the lead everything runs and nothing is written, so that taking over is a matter of a moment.
"""

import asyncio
import contextlib
import datetime as dt
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from kubernetes.aio.client import Configuration

from bullpen.errors import BullpenError, ConfigurationError
from bullpen_operator import metrics, pauses, probes
from bullpen_operator.cache import REPLICA_MANAGERS, Cache, Change
from bullpen_operator.cases import Parts
from bullpen_operator.children import Children
from bullpen_operator.connections.controller import Connections
from bullpen_operator.connections.grants import Grants
from bullpen_operator.connections.pool import Redis, Redises
from bullpen_operator.connections.references import RedisRef
from bullpen_operator.connections.users import Users
from bullpen_operator.desired.deployments import Workplace
from bullpen_operator.informers import Informers
from bullpen_operator.kube import access, kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Conflict, KubeError, NotLeading
from bullpen_operator.kube.kinds import Key, Object
from bullpen_operator.kube.lease import Election, Terms
from bullpen_operator.kube.recorder import Recorder
from bullpen_operator.reconciler import Reconciler, owned_elsewhere
from bullpen_operator.reporting import Reporter
from bullpen_operator.revisions import Revisions
from bullpen_operator.scaling.scaler import Scaler
from bullpen_operator.settings import Settings
from bullpen_operator.workqueue import WorkQueue

log = logging.getLogger("bullpen.operator")

PREPARE_AGAIN_SECONDS: Final = 2.0
OVERTAKEN_SECONDS: Final = 0.2
LONGEST_OVERTAKEN_SECONDS: Final = 2.0
TELL_AFTER_SECONDS: Final = 10.0
"""What fails is told by a condition once it is tried so seldom: an API server that flaps for a while is none of a JobQueue's."""
RESYNCS: Final = 200
"""In so many parts a resync is done: those of one part are looked at together, so that their commands share round trips to Redis.

Of a thousand JobQueues each part has as many as are worked on at the same time."""
_CONNECTIONS: Final = (kinds.REDIS_CONNECTION, kinds.CLUSTER_REDIS_CONNECTION)


class Operator:
    """One operator. Use `run`, once."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._clock: Callable[[], float] = loop.time
        self.metrics = metrics.Metrics()
        self.election_kube = Kube(configuration)
        self.kube = Kube(configuration, fence=self.leads)
        self._election = Election(
            self.election_kube,
            Terms(
                namespace=settings.namespace,
                name=settings.lease,
                identity=settings.identity,
                lease_seconds=settings.lease_seconds,
                renew_seconds=settings.renew_seconds,
                retry_seconds=settings.retry_seconds,
            ),
            changed=lambda leads: self._lead_changed(leads=leads),
            random=random.random,
        )
        self.cache = Cache()
        self.informers = Informers(
            self.kube,
            configuration,
            self.cache,
            namespaces=settings.namespaces,
            resync_seconds=settings.resync_seconds,
            clock=self._clock,
            random=random.random,
        )
        self.queue: WorkQueue[Key] = WorkQueue(clock=self._clock, random=random.random, lane=lambda key: key.namespace)
        self.prepared = False
        """Whether what was there before is known."""
        self._prepare = asyncio.Event()
        self._of_this_lead = False
        """Whether what is known was found since the lead was taken last: only then anything is reconciled."""
        self._missed: set[Key] = set()
        self._unseen: set[Key] = set()
        """JobQueues that were there at the start and were not looked at yet."""
        self._thorough_at: dict[Key, float] = {}
        self._cluster_id = settings.cluster_id
        self._reconciler: Reconciler | None = None
        self._reporter: Reporter | None = None
        self._scaler: Scaler[RedisRef] | None = None
        self._connections: Connections | None = None
        self._grants: Grants | None = None
        self.port = 0
        """Where the probes are served, once they are."""

    def leads(self) -> bool:
        """Whether anything may be written."""
        return not self._settings.leader_election or self._election.leads()

    async def run(self) -> None:
        """Work until cancelled. Raises what a part of it died of."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.election_kube)
            await stack.enter_async_context(self.kube)
            if self._settings.probes:
                answers = probes.Answers(self._not_ready, self._render, metrics.CONTENT_TYPE)
                self.port = await stack.enter_async_context(probes.serve(self._settings.probes, answers))
            redises = await stack.enter_async_context(Redises(self.kube))
            async with asyncio.TaskGroup() as tasks:
                if self._settings.leader_election:
                    tasks.create_task(self._election.run(), name="election")
                else:
                    self._lead_changed(leads=True)
                tasks.create_task(self.informers.run(), name="informers")
                await self.informers.synced.wait()
                users = Users(redises, cluster=self._tenancy, exists=self._exists, leading=self.leads)
                parts, scaler = self._wire(redises, users)
                tasks.create_task(scaler.run(), name="scaler")
                tasks.create_task(users.run(), name="users")
                self._connections = Connections(
                    self.kube,
                    self.cache,
                    redises,
                    parts.recorder,
                    operator_namespace=self._settings.namespace,
                    cluster_wide=self._settings.cluster_wide,
                    leading=self.leads,
                    now=_now,
                    gone=self.metrics.redis_gone,
                    up=self.metrics.redis_up,
                    attend=users.attend,
                )
                tasks.create_task(self._connections.run(), name="connections")
                tasks.create_task(parts.reporter.run(), name="status")
                tasks.create_task(parts.recorder.run(), name="events")
                tasks.create_task(self._prepare_for_ever(parts), name="prepare")
                tasks.create_task(self.queue.run(self._work, self._settings.concurrency), name="reconcile")

    # -- putting it together -----------------------------------------------------------------------------------------

    def _wire(self, redises: Redises, users: Users) -> tuple[Parts, Scaler[RedisRef]]:
        settings, kube, cache = self._settings, self.kube, self.cache
        recorder = Recorder(
            kube, settings.identity, clock=time.monotonic, name=lambda: f"{time.time_ns():x}{secrets.token_hex(2)}"
        )
        scaler: Scaler[RedisRef] = Scaler(
            kube,
            cache,
            redises,
            leading=self.leads,
            changed=self._scaling_changed,
            lost=self.queue.add,
            meter=self.metrics,
        )
        reporter = Reporter(
            kube,
            cache,
            scaler,
            recorder,
            leads=self.leads,
            clock=self._clock,
            random=random.random,
            now=_now,
            writes_per_second=settings.status_writes_per_second,
        )
        workplace = Workplace(image_pull_secrets=settings.worker_image_pull_secrets)
        grants = self._grants = Grants(
            kube,
            cache,
            users,
            operator_namespace=settings.namespace,
            now=_now,
            again=lambda key, seconds: self.queue.add(key, delay=seconds),
        )
        parts = Parts(
            kube=kube,
            cache=cache,
            children=Children(kube, cache, workplace, network_policies=settings.network_policies),
            revisions=Revisions(kube),
            redises=redises,
            grants=grants,
            scaler=scaler,
            reporter=reporter,
            recorder=recorder,
        )
        self._reporter, self._scaler = reporter, scaler
        redises.subscribe(self._redis_changed)
        cache.subscribe(self._heard)
        return parts, scaler

    async def _prepare_for_ever(self, parts: Parts) -> None:
        """Before the first reconcile, and whenever the lead is taken: find what is there, then look at every JobQueue."""
        while True:
            self._prepare.clear()
            try:
                self._reconciler = self._reconciler or Reconciler(
                    parts, self._settings, cluster_id=await self._find_cluster_id(), leads=self.leads, now=_now
                )
                await parts.children.load(self._settings.namespaces)
                await parts.revisions.load(self._settings.namespaces)
            except KubeError as error:
                log.warning("not_prepared", extra={"error": str(error)})
                await asyncio.sleep(PREPARE_AGAIN_SECONDS)
                continue
            there = {kinds.key_of(kinds.JOBQUEUE, obj) for obj in self.cache.all(kinds.JOBQUEUE)}
            if not self.prepared:
                self.prepared, self._unseen = True, set(there)
            if self._prepare.is_set():
                continue  # the lead was taken meanwhile: another may have changed what was found
            self._of_this_lead = True
            self._add_all(there)
            self._add_all(self._missed)  # those that went, too
            self._missed.clear()
            await self._prepare.wait()

    async def _find_cluster_id(self) -> str:
        """Give what tells this cluster from others: told, or the uid of a namespace that lives as long as it does."""
        if self._cluster_id:
            return self._cluster_id
        name = "kube-system" if self._settings.cluster_wide else self._settings.namespace
        namespace = await self.kube.get(kinds.NAMESPACE, "", name)
        if namespace is None:
            msg = (
                f"there is no namespace {name}: set BULLPEN_OPERATOR_CLUSTER_ID to what tells this cluster from others"
            )
            raise ConfigurationError(msg)
        self._cluster_id = namespace["metadata"]["uid"]
        return self._cluster_id

    def _tenancy(self) -> str:
        """Give what tells the users of our JobQueues in Redis from those of another cluster or class; empty until it is known."""
        return f"{self._cluster_id}/{self._settings.class_name}" if self._cluster_id else ""

    def _exists(self, namespace: str, name: str) -> bool:
        """Whether there is such a JobQueue of ours, or a pod of one that is gone: it still has jobs to finish."""
        obj = self.cache.get(kinds.JOBQUEUE, namespace, name)
        known = obj is not None and ((obj.get("spec") or {}).get("className") or "") == self._settings.class_name
        return known or any(self.cache.pods_of(namespace, name))

    # -- working -----------------------------------------------------------------------------------------------------

    async def _work(self, key: Key) -> None:
        """Reconcile one JobQueue, once what there is has been found."""
        self.metrics.queue_depth(len(self.queue))
        reconciler = self._reconciler
        if reconciler is None or not self._of_this_lead:
            self._missed.add(key)
            return
        await self._reconcile(reconciler, key)
        self._unseen.discard(key)

    async def _reconcile(self, reconciler: Reconciler, key: Key) -> None:
        """Reconcile one JobQueue; whatever becomes of it, it is looked at again."""
        began = self._clock()
        thorough = began >= self._thorough_at.setdefault(key, self._next_resync())
        try:
            result = await reconciler.reconcile(key, thorough=thorough)
        except NotLeading as error:
            log.debug("reconcile_overtaken", extra={"key": str(key), "error": str(error)})
            self.queue.add(key, delay=OVERTAKEN_SECONDS)
            return
        except Conflict as error:
            # Another was quicker: what is true now is on its way to the cache, unless the watches fail.
            log.debug("reconcile_overtaken", extra={"key": str(key), "error": str(error)})
            self.queue.failed(key, longest=LONGEST_OVERTAKEN_SECONDS)
            return
        except BullpenError as error:
            delay = self.queue.failed(key)
            log.warning("reconcile_failed", extra={"key": str(key), "error": str(error), "again_in": round(delay, 1)})
            if delay >= TELL_AFTER_SECONDS:
                reconciler.tell(key, error)
            self.metrics.reconciled("retry", self._clock() - began)
            return
        except Exception as error:  # one JobQueue that cannot be understood must not stop all others
            reconciler.tell(key, error)
            delay = self.queue.failed(key)
            log.exception("reconcile_broke", extra={"key": str(key), "again_in": round(delay, 1)})
            self.metrics.reconciled("failed", self._clock() - began)
            return
        if result.word != "standby":
            self.metrics.reconciled(result.word, self._clock() - began)
        if result.failed:
            self.queue.failed(key)
        else:
            self.queue.succeeded(key)
        self._look_again(key, result.again_seconds, thorough=thorough)

    def _look_again(self, key: Key, seconds: float | None, *, thorough: bool) -> None:
        if self._reporter is None or self._reporter.facts(key) is None:
            self.metrics.forget(key)  # it is no more, or an operator of another class takes it
        if self.cache.find(key) is None:
            self._thorough_at.pop(key, None)
            return
        if thorough:
            self._thorough_at[key] = self._next_resync()
        self.queue.add(key, delay=max(0.01, self._thorough_at[key] - self._clock()))
        if seconds is not None:
            self.queue.add(key, delay=seconds)

    def _next_resync(self) -> float:
        seconds = self._settings.resync_seconds
        at = self._clock() + seconds * (0.75 + 0.5 * random.random())  # noqa: S311 - spreads work, guards nothing
        grid = seconds / RESYNCS
        return math.ceil(at / grid) * grid

    # -- news --------------------------------------------------------------------------------------------------------

    def _lead_changed(self, *, leads: bool) -> None:
        self.metrics.leading(leads=leads)
        if self._reconciler is not None:
            self._reconciler.renew()
        if leads:
            if self._scaler is not None:
                self._scaler.renew()  # first: jobs may have waited for it since the other left
            self._of_this_lead = False
            self._prepare.set()
            if self._reporter is not None:
                for key, _ in self._reporter.known():
                    self.metrics.forget(key)
                self._reporter.renew()
            if self._grants is not None:
                self._grants.renew()
            if self._connections is not None:
                self._connections.look_at_all()

    def _heard(self, change: Change) -> None:
        """Say which JobQueues a change in the cluster concerns."""
        kind = change.key.kind
        if kind == kinds.JOBQUEUE:
            if _matters(change) or (not self.leads() and _changed_hands(change)):
                self.queue.add(change.key)
        elif kind in (kinds.DEPLOYMENT, kinds.STATEFULSET):
            self._target_changed(change)
        elif kind in _CONNECTIONS:
            if _matters(change):
                self._add_all(self._reconciler.using(change.key) if self._reconciler is not None else ())
                if kind == kinds.REDIS_CONNECTION:  # it may have become the default one of its namespace
                    self._add_all(self._of_namespace(change.key.namespace))
        elif kind == kinds.NAMESPACE and _matters(change):
            self._add_all(self._of_namespace(change.key.name))

    def _of_namespace(self, name: str) -> Iterable[Key]:
        found = (kinds.key_of(kinds.JOBQUEUE, obj) for obj in self.cache.all(kinds.JOBQUEUE))
        return [key for key in found if key.namespace == name]

    def _target_changed(self, change: Change) -> None:
        obj = change.new or change.old
        name = kinds.labels_of(obj).get(kinds.LABEL_SCALED_BY) if obj is not None else None
        if obj is None or not name:
            return
        key = Key(kinds.JOBQUEUE, change.key.namespace, name)
        if self._reporter is not None:
            self._reporter.touch(key)
        ours = (
            change.key.kind == kinds.DEPLOYMENT and kinds.labels_of(obj).get(kinds.LABEL_MANAGED_BY) == kinds.MANAGED_BY
        )
        if ours and (change.new is None or (change.old is not None and _outline(change.new) != _outline(change.old))):
            self.queue.add(key)

    def _redis_changed(self, redis: Redis) -> None:
        if self._connections is None or not self._connections.is_superseded(redis):
            self.metrics.redis_up(redis.id, redis.up)
        if redis.up and self._reconciler is not None:
            self._add_all(self._reconciler.on(redis.ref))

    def _scaling_changed(self, key: Key) -> None:
        """Take it that the scaler has something new to tell."""
        if self._reporter is not None:
            self._reporter.touch(key)

    def _add_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.queue.add(key)

    # -- probes ------------------------------------------------------------------------------------------------------

    def _not_ready(self) -> str:
        if not self.informers.synced.is_set():
            return "the cluster is not known yet: the API server does not answer, or the definitions are not installed"
        if not self.prepared:
            return "what was there before is being found"
        # A rollout ends the one that leads as soon as this one is ready; it is to follow at once.
        if self._unseen and not self.leads():
            return f"{len(self._unseen)} JobQueues have not been looked at yet"
        return ""

    def _render(self) -> bytes:
        """Give the metrics, those of the queues as the scaler knows them now."""
        self.metrics.queue_depth(len(self.queue))
        if self._scaler is not None and self._reporter is not None:
            for key, facts in self._reporter.known():
                state = self._scaler.state(key)
                if state is None:  # it has no queue, or another has it: what was last seen is not so any more
                    self.metrics.forget(key)
                elif facts.spec is not None:
                    scaling, alerts = facts.spec.scaling, facts.spec.alerts
                    most = scaling.max_replicas if scaling is not None and scaling.mode == "Auto" else None
                    self.metrics.scaling(key, facts.queue, state, max_replicas=most)
                    age = alerts.oldest_job_age.total_seconds() if alerts and alerts.oldest_job_age else None
                    share = alerts.failure_share if alerts else None
                    self.metrics.thresholds(key, facts.queue, oldest_job_age_seconds=age, failure_ratio=share)
        return self.metrics.render()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run an operator until `stop` is set. Raises `ConfigurationError`, and what a part of it died of."""
    operator = Operator(settings, await access.configuration(settings.kubeconfig))
    work = asyncio.create_task(operator.run(), name="operator")
    wait = asyncio.create_task(stop.wait(), name="stop")
    short = asyncio.create_task(pauses.keep_short(), name="pauses")
    try:
        await asyncio.wait((work, wait), return_when=asyncio.FIRST_COMPLETED)
    finally:
        short.cancel()
        wait.cancel()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def _matters(change: Change) -> bool:
    """Whether a reconcile may come to something else for it."""
    return change.new is None or change.old is None or _outline(change.new) != _outline(change.old)


def _changed_hands(change: Change) -> bool:
    """Whether the one that leads has found the JobQueue's queue to be another's, or its own again."""
    return (
        change.new is not None and change.old is not None and owned_elsewhere(change.new) != owned_elsewhere(change.old)
    )


def _outline(obj: Object) -> tuple[object, ...]:
    """Give of an object what a reconcile goes by: neither its status, nor the replicas, which are the scaler's."""
    metadata = obj["metadata"]
    annotations = {
        name: value
        for name, value in (metadata.get("annotations") or {}).items()
        if not name.startswith("deployment.kubernetes.io/")
    }
    spec = obj.get("spec") or {}
    if obj.get("kind") == kinds.DEPLOYMENT.kind:
        spec = {name: value for name, value in spec.items() if name != "replicas"}
    return (
        metadata.get("uid"),
        metadata.get("deletionTimestamp"),
        metadata.get("finalizers"),
        metadata.get("labels"),
        metadata.get("ownerReferences"),
        annotations,
        spec,
        metadata.get(REPLICA_MANAGERS),
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
