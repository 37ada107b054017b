"""Makes the objects of a JobQueue in the cluster as they are to be, and writes only where something differs.

Deployments are watched, so the cache tells what they are like. The others are small, hardly ever change, and are not
watched: what we applied last is remembered by its mark (found by one list at the start), and they are looked at anew at
each resync only (`thorough`).

The replicas of a Deployment are the scaler's. A field that a manager stops applying falls back to its default, unless
another owns it too; so they are handed over in three steps, each found again by who owns the field: `bullpen` applies the
Deployment with replicas, `bullpen-scaler` applies the same number through the scale subresource, `bullpen` applies without.
"""

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen_operator.cache import Cache, replica_managers
from bullpen_operator.conditions import Problem
from bullpen_operator.desired import companions, deployments, differences, naming
from bullpen_operator.desired.deployments import Workplace
from bullpen_operator.kube import kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import Forbidden, Invalid, KubeError
from bullpen_operator.kube.kinds import Key, Kind, Object

log = logging.getLogger("bullpen.operator.children")

COMPANIONS: Final = (kinds.SERVICE_ACCOUNT, kinds.POD_DISRUPTION_BUDGET, kinds.NETWORK_POLICY)
_OURS: Final = f"{kinds.LABEL_MANAGED_BY}={kinds.MANAGED_BY}"


class Refused(KubeError):
    """A child cannot be as it is to be. `problem` says why, for the JobQueue's conditions."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message, reason=problem.reason)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class _Applied:
    mark: str
    spec: str
    """Of what the API server made of it, where it reads otherwise than what we want though it is the same."""


class Children:
    """The children of all JobQueues. `load` first."""

    def __init__(self, kube: Kube, cache: Cache, workplace: Workplace, *, network_policies: bool) -> None:
        self._kube = kube
        self._cache = cache
        self._workplace = workplace
        self._network_policies = network_policies
        self._marks: dict[Key, str] = {}
        self._applied: dict[Key, _Applied] = {}

    async def load(self, namespaces: tuple[str, ...]) -> None:
        """Find what was applied before, in these namespaces or in all. Raises `KubeError`."""
        self._marks.clear()
        for kind in COMPANIONS:
            for namespace in namespaces or ("",):
                for each in await self._kube.list_metadata(kind, namespace, _OURS):
                    self._marks[kinds.key_of(kind, each)] = differences.mark_of(each)

    async def settle(self, jobqueue: Object, spec: JobQueueSpec, *, thorough: bool) -> list[str]:
        """Make them so. Gives what was written, by kind. Raises `Refused`, and other `KubeError`."""
        written = []
        wanted = self._companions(jobqueue, spec)
        for kind in COMPANIONS:
            if kind in wanted:
                if await self._companion(kind, wanted[kind], jobqueue, thorough=thorough):
                    written.append(f"{kind}")
            elif await self._remove(kind, jobqueue):
                written.append(f"-{kind}")
        if spec.worker is None:
            if await self._remove(kinds.DEPLOYMENT, jobqueue):
                written.append(f"-{kinds.DEPLOYMENT}")
        elif await self._deployment(jobqueue, spec):
            written.append(f"{kinds.DEPLOYMENT}")
        return written

    async def rehearse(self, jobqueue: Object, spec: JobQueueSpec) -> None:
        """Ask the API server whether it would take the Deployment, where it differs from what there is. Raises `Refused`."""
        if spec.worker is None:
            return
        wanted = differences.marked(deployments.deployment(jobqueue, spec, spec.worker, self._workplace))
        live = self._cache.find(kinds.key_of(kinds.DEPLOYMENT, wanted))
        if live is not None and differences.differs(wanted, live):
            await self._guarded(kinds.DEPLOYMENT, self._kube.apply(wanted, dry_run=True))

    def forget(self, key: Key) -> None:
        """Forget the children of a JobQueue that is gone; the garbage collector takes them."""
        name = naming.workers(key.name)
        for kind in (*COMPANIONS, kinds.DEPLOYMENT):
            self._marks.pop(Key(kind, key.namespace, name), None)
            self._applied.pop(Key(kind, key.namespace, name), None)

    # -- companions ----------------------------------------------------------------------------------------------

    def _companions(self, jobqueue: Object, spec: JobQueueSpec) -> dict[Kind, Object]:
        if spec.worker is None:
            return {}
        wanted = {kinds.POD_DISRUPTION_BUDGET: companions.disruption_budget(jobqueue)}
        if not spec.worker.service_account_name:
            wanted[kinds.SERVICE_ACCOUNT] = companions.service_account(jobqueue)
        if self._network_policies:
            wanted[kinds.NETWORK_POLICY] = companions.network_policy(jobqueue)
        return wanted

    async def _companion(self, kind: Kind, obj: Object, jobqueue: Object, *, thorough: bool) -> bool:
        wanted = differences.marked(obj)
        key = kinds.key_of(kind, wanted)
        mark = differences.mark_of(wanted)
        if self._marks.get(key) == mark and not thorough:
            return False
        live = await self._kube.get(*key)
        self._claim(kind, live, jobqueue)
        if not differences.differs(wanted, live):
            self._marks[key] = mark
            return False
        await self._guarded(kind, self._kube.apply(wanted))
        self._marks[key] = mark
        return True

    async def _remove(self, kind: Kind, jobqueue: Object) -> bool:
        key = Key(kind, jobqueue["metadata"]["namespace"], naming.workers(jobqueue["metadata"]["name"]))
        if kind == kinds.DEPLOYMENT:
            live = self._cache.find(key)
        else:
            live = await self._kube.get(*key) if key in self._marks else None
        self._marks.pop(key, None)
        self._applied.pop(key, None)
        if live is None or not _is_ours(live, jobqueue):
            return False
        return await self._kube.delete(*key, uid=live["metadata"]["uid"])

    # -- the Deployment --------------------------------------------------------------------------------------------

    async def _deployment(self, jobqueue: Object, spec: JobQueueSpec) -> bool:
        worker = spec.worker
        if worker is None:
            return False
        wanted = differences.marked(deployments.deployment(jobqueue, spec, worker, self._workplace))
        key = kinds.key_of(kinds.DEPLOYMENT, wanted)
        # What does not carry our label is not watched, but may have the name all the same.
        live = self._cache.find(key) or await self._kube.get(*key)
        self._claim(kinds.DEPLOYMENT, live, jobqueue)
        wrote = False
        if live is None:
            first = deployments.deployment(jobqueue, spec, worker, self._workplace, replicas=_first_replicas(spec))
            live = self._took(await self._guarded(kinds.DEPLOYMENT, self._kube.apply(differences.marked(first))))
            wrote = True
        managers = replica_managers(live)
        if kinds.MANAGER in managers and kinds.SCALER_MANAGER not in managers:
            number = live["spec"].get("replicas", 1)
            await self._kube.apply_scale(*key, number, live["metadata"]["resourceVersion"])
            wrote = True
        fingerprint = differences.fingerprint(live["spec"])
        why = "replicas are the scaler's" if kinds.MANAGER in managers else differences.differs(wanted, live)
        if not why or (
            why != "wanted otherwise" and self._applied.get(key) == _Applied(differences.mark_of(wanted), fingerprint)
        ):
            return wrote
        log.info("deployment_applied", extra={"deployment": str(key), "why": why})
        live = self._took(await self._guarded(kinds.DEPLOYMENT, self._kube.apply(wanted)))
        self._applied[key] = _Applied(differences.mark_of(wanted), differences.fingerprint(live["spec"]))
        return True

    def _took(self, live: Object) -> Object:
        self._cache.put(kinds.DEPLOYMENT, live)
        return live

    # -- both ------------------------------------------------------------------------------------------------------

    def _claim(self, kind: Kind, live: Object | None, jobqueue: Object) -> None:
        """Refuse to touch what is somebody else's."""
        if live is None or _is_ours(live, jobqueue):
            return
        name = live["metadata"]["name"]
        mine = kinds.labels_of(live).get(kinds.LABEL_JOBQUEUE) == jobqueue["metadata"]["name"]
        if mine and kinds.labels_of(live).get(kinds.LABEL_MANAGED_BY) == kinds.MANAGED_BY:
            text = f'the {kind} "{name}" is still that of an earlier JobQueue of this name; waiting for it to go'
            raise Refused(Problem("ChildRemains", text, stalled=False))
        text = f'there is a {kind} "{name}" that is not this JobQueue\'s: delete or rename it, or rename the JobQueue'
        raise Refused(Problem("NameTaken", text))

    async def _guarded(self, kind: Kind, request: Awaitable[Object]) -> Object:
        try:
            return await request
        except (Invalid, Forbidden) as error:
            raise Refused(Problem("ChildRefused", f"the API server does not take the {kind}: {error}")) from error


def _is_ours(live: Object, jobqueue: Object) -> bool:
    """Whether it belongs to this JobQueue; what was orphaned and carries our labels is taken back."""
    if any(reference.get("controller") for reference in live["metadata"].get("ownerReferences") or ()):
        return naming.belongs_to(live, jobqueue)
    labels = kinds.labels_of(live)
    return (
        labels.get(kinds.LABEL_MANAGED_BY) == kinds.MANAGED_BY
        and labels.get(kinds.LABEL_JOBQUEUE) == jobqueue["metadata"]["name"]
    )


def _first_replicas(spec: JobQueueSpec) -> int:
    """Give the replicas of a new Deployment: what mode Manual says, else the least; the scaler goes on from there."""
    if spec.scaling is None or spec.scaling_mode == "Manual":
        return spec.replicas
    return spec.scaling.min_replicas
