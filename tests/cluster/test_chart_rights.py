"""The operator with the rights that the chart gives it, and no other: nothing it asks for is refused, nothing is given in vain.

A life in short: queues with workers of their own, with workers of others, without; users of their own in Redis; a connection
with certificates; workers that are busy, idle and taken away; policies switched on and off; ends by each way. What the API server
wrote into its audit log is held against the roles.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bullpen import Client, RedisSettings, embedded
from bullpen_operator.kube.kinds import LABEL_SCALED_BY
from tests.chart.rendering import NAMESPACE, Chart, Object, Values
from tests.support import operators
from tests.support.kubernetes import pods
from tests.support.kubernetes.api import Api
from tests.support.kubernetes.apiserver import ApiServer, Login
from tests.support.kubernetes.audit import Audit, Did, Use, unused
from tests.support.operators import VERSION, conditions, jobqueue
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(480)

HANDLERS = """
import asyncio
from pathlib import Path
from bullpen import Handlers

emails = Handlers("emails")

@emails.handler("welcome")
async def welcome(until: str) -> None:
    while not Path(until).exists():
        await asyncio.sleep(0.05)
"""


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Redis that the operator may manage users in."""
    with embedded.start(unix=False) as server:
        yield server.url


@contextlib.asynccontextmanager
async def roles(server: ApiServer, chart: Chart, values: Values) -> AsyncIterator[tuple[Login, list[Object]]]:
    """Give the operator's account the roles of the chart, and no other; give its login, and the roles."""
    api = server.api()
    objects = chart.objects({**values, "crds": {"install": False}})
    given = [obj for obj in objects if obj not in objects.hooks and obj["kind"].endswith(("Role", "RoleBinding"))]
    found = [
        obj
        for obj in given
        if obj["kind"] in {"Role", "ClusterRole"} and obj["metadata"]["name"] not in {"bullpen-view", "bullpen-edit"}
    ]
    login = server.service_account(NAMESPACE, "bullpen")
    for obj in given:
        api.apply(obj)
    try:
        # The API server hears of roles by a watch of its own: what is asked before is refused.
        await eventually(lambda: all(may(api, login, role) for role in found), 30, every=0.1)
        yield login, found
    finally:
        for obj in given:
            api.delete(obj["apiVersion"], obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        await eventually(lambda: not any(may(api, login, role) for role in found), 30, every=0.1)


def may(api: Api, login: Login, role: Object) -> bool:
    """Whether the account may do the first thing that a role grants."""
    rule = role["rules"][0]
    resource, _, subresource = rule["resources"][0].partition("/")
    what = {
        "namespace": role["metadata"].get("namespace", ""),
        "verb": rule["verbs"][0],
        "group": rule["apiGroups"][0],
        "resource": resource,
        "subresource": subresource,
        "name": (rule.get("resourceNames") or [""])[0],
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": login.user, "resourceAttributes": what},
    }
    answer = api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def foreign(namespace: str, kind: str, queue: str) -> Object:
    """Somebody else's workers, lent to a JobQueue."""
    labels = {"app": queue}
    spec: Object = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "node", "image": "node:1"}]}},
    }
    if kind == "StatefulSet":
        spec["serviceName"] = queue
    metadata = {"name": queue, "namespace": namespace, "labels": {LABEL_SCALED_BY: queue}}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


AT_ONCE = {"maxReplicas": 2, "zeroAfter": "1s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
"""Scaling that waits for nothing."""
FOREIGN = {"node": "Deployment", "stateful": "StatefulSet"}


@dataclass(frozen=True)
class Life:
    """What an operator may have to do, in two chapters."""

    api: Api
    namespace: str
    url: str
    prefix: str
    folder: Path
    refused: Callable[[], list[str]]
    """What the API server has refused to the operator so far."""

    async def first(self) -> None:
        """Queues are declared, work comes and is done, a queue is paused."""
        drained = {"policy": "Drain", "timeout": "10s"}
        self.api.apply(jobqueue(self.namespace, scaling=AT_ONCE, deletion=drained))
        self.api.apply(jobqueue(self.namespace, "plain", worker=None, scaling=None))
        for name, kind in FOREIGN.items():
            self.api.apply(foreign(self.namespace, kind, name))
            target = {"kind": kind, "name": name}
            self.api.apply(jobqueue(self.namespace, name, worker=None, scaleTargetRef=target, scaling=AT_ONCE))
        for name in ("emails", "plain", *FOREIGN):
            await self.ready(name)
        await self.until(lambda: self.find("NetworkPolicy", "emails-worker", "networking.k8s.io/v1"))
        for name, kind in FOREIGN.items():
            await self.until(self.at_zero(kind, name, name))
        done = self.folder / "done"
        async with Client(RedisSettings.from_url(self.url), prefix=self.prefix) as client:
            await client.queue("emails").enqueue("welcome", {"until": str(done)})
        await self.until(self.busy_pods)
        done.write_text("")
        await self.until(self.at_zero("Deployment", "emails-worker", "emails"))
        for paused in ("True", "False", "True", "False"):  # the second time the event is counted, not written anew
            self.change("plain", {"paused": paused == "True"})
            await self.until(lambda paused=paused: self.condition("plain", "Paused") == paused)

    async def second(self) -> None:
        """Another operator, other settings: what is no longer wanted goes, and the queues go, one of them with a job in it."""
        await self.until(lambda: self.find("NetworkPolicy", "emails-worker", "networking.k8s.io/v1") is None)
        worker = {"image": "shop:1", "handlers": ["jobs"]}
        self.api.apply(jobqueue(self.namespace, "plain", worker=worker, scaling=None))
        await self.until(lambda: self.find("Deployment", "plain-worker"))
        self.change("plain", {"worker": None})
        await self.until(lambda: self.find("Deployment", "plain-worker") is None)
        drained = {"policy": "Drain", "timeout": "2s"}
        self.api.apply(jobqueue(self.namespace, "stuck", worker=None, scaling=None, deletion=drained))
        await self.ready("stuck")
        async with Client(RedisSettings.from_url(self.url), prefix=self.prefix) as client:
            await client.queue("stuck").enqueue("never", {})
        for name in ("plain", "emails", "stuck", *FOREIGN):
            self.api.delete(VERSION, "JobQueue", self.namespace, name)
        for name in ("plain", "emails", "stuck", *FOREIGN):
            await self.until(lambda name=name: self.find("JobQueue", name, VERSION) is None)

    def worker(self) -> dict[str, str]:
        """The environment of a real worker of `emails`."""
        (self.folder / "jobs.py").write_text(HANDLERS)
        return {
            "PYTHONPATH": str(self.folder),
            "BULLPEN_REDIS_URL": self.url,
            "BULLPEN_PREFIX": self.prefix,
            "BULLPEN_QUEUE": "emails",
            "BULLPEN_HANDLERS": "jobs",
        }

    # -- what is seen

    def find(self, kind: str, name: str, version: str = "apps/v1") -> Object | None:
        return self.api.find(version, kind, self.namespace, name)

    def condition(self, name: str, kind: str) -> str:
        return conditions(self.api, self.namespace, name).get(kind, ("",))[0]

    def busy_pods(self) -> bool:
        """Whether a pod is marked for those who drain nodes."""
        return any(
            "karpenter.sh/do-not-disrupt" in (pod["metadata"].get("annotations") or {})
            for pod in self.api.list("v1", "Pod", self.namespace, labels="bullpen.dev/jobqueue=emails")
        )

    def at_zero(self, kind: str, name: str, queue: str) -> Callable[[], bool]:
        """Whether the workers of a queue have gone; says what the queue says where not."""

        def seen() -> bool:
            scaling = self.api.get(VERSION, "JobQueue", self.namespace, queue)["status"].get("scaling")
            assert self.api.get("apps/v1", kind, self.namespace, name)["spec"]["replicas"] == 0, scaling
            return True

        return seen

    # -- what is done

    def change(self, name: str, spec: Object) -> None:
        path = self.api.path(VERSION, "JobQueue", self.namespace, name)
        self.api.request("PATCH", path, {"spec": spec}, content_type="application/merge-patch+json")

    async def ready(self, name: str) -> None:
        def declared() -> bool:
            assert self.condition(name, "Ready") == "True", conditions(self.api, self.namespace, name)
            return True

        await self.until(declared)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait; where it is in vain, say what was refused, which is why."""
        try:
            await eventually(condition, 60, every=0.1)
        except AssertionError:
            assert (refused := self.refused()) == [], "\n".join(refused)
            raise


NOT_IN_THE_LOG = {
    # Asked by the admission plugin OwnerReferencesPermissionEnforcement, where a cluster has it: our objects block their owner.
    Use("update", "bullpen.dev", "jobqueues/finalizers"),
}
"""What the operator needs, and this life does not show."""


def judged(did: Did, granted: list[Object]) -> tuple[list[str], list[str]]:
    """What was refused; what was granted and not used."""
    refused = [f"{event.use} ({event.name}): {event.status}" for event in did.refused()]
    # An apply that makes an object is a patch to the log, and needs the right to create as well.
    made = {
        replace(event.use, verb="create", namespace="")
        for event in did
        if (event.use.verb, event.status) == ("patch", 201)
    }
    vain = [
        f"{role['metadata']['name']}: {use}"
        for role in granted
        for use in unused(role["rules"], did)
        if use not in made | NOT_IN_THE_LOG
    ]
    return refused, vain


def connection(kind: str, namespace: str, url: str, **spec: object) -> Object:
    """A connection to that Redis, as the default; its user is named by a Secret."""
    metadata = {"name": "shared", "annotations": {"bullpen.dev/default": "true"}}
    if kind == "RedisConnection":
        metadata["namespace"] = namespace
    reference = {"secretKeyRef": {"name": "redis", "key": "username"}}
    given = {"endpoints": [url], "users": "Managed", "auth": {"username": reference}}
    return {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": given | spec}


@pytest.mark.parametrize("cluster_wide", [True, False], ids=["cluster-wide", "one namespace"])
async def test_the_roles_are_what_a_whole_life_needs(control_plane, chart, redis_url, tmp_path, cluster_wide):
    api = control_plane.api()
    api.install(operators.CRDS.read_text())
    api.namespace(NAMESPACE)
    namespace = api.namespace("shop-wide" if cluster_wide else "shop-alone")
    values: Values = {"networkPolicy": {"enabled": True}, "namespaces": [] if cluster_wide else [namespace]}
    async with roles(control_plane, chart, values) as (login, granted):
        await live(control_plane, login, granted, namespace, redis_url, tmp_path, cluster_wide=cluster_wide)


async def live(
    server: ApiServer,
    login: Login,
    granted: list[Object],
    namespace: str,
    redis_url: str,
    folder: Path,
    *,
    cluster_wide: bool,
) -> None:
    """Live the whole life, and judge what the API server was asked for."""
    api = server.api()
    for place in (NAMESPACE, namespace):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis", "namespace": place}}
        api.apply({**secret, "stringData": {"username": "default"}})
    url = redis_url.removesuffix("/0")
    if cluster_wide:
        api.apply(
            connection("ClusterRedisConnection", "", url, allowedNamespaces={"selector": {}}, prefix="{namespace}")
        )
    else:
        api.apply(connection("RedisConnection", namespace, url))
    ca = {"configMapKeyRef": {"name": "authority", "key": "ca.crt"}}
    secure = connection("RedisConnection", namespace, "rediss://127.0.0.1:1", tls={"ca": ca})
    secure["metadata"] = {"name": "secure", "namespace": namespace}
    api.apply(secure)
    api.apply(jobqueue(namespace, "secure", worker=None, redisRef={"name": "secure"}, scaling=None))
    if api.find("coordination.k8s.io/v1", "Lease", NAMESPACE, "bullpen"):
        api.delete("coordination.k8s.io/v1", "Lease", NAMESPACE, "bullpen")
    mark = Audit(server.audit_log).mark()

    def did() -> Did:
        return Audit(server.audit_log).since(mark, user=login.user)

    prefix = namespace if cluster_wide else "bull"
    life = Life(api, namespace, url, prefix, folder, refused=lambda: judged(did(), [])[0])
    settings = {"namespaces": () if cluster_wide else (namespace,), "lease_name": "bullpen", "resync_seconds": 5.0}
    async with pods.following(api, namespace, "emails", life.worker(), folder):
        async with operators.running(login, NAMESPACE, network_policies=True, **settings):
            await life.first()
        async with operators.running(login, NAMESPACE, network_policies=False, **settings):
            await life.second()

    def fits() -> bool:
        refused, vain = judged(did(), granted)
        assert refused == []
        assert vain == [], "\n".join(vain)
        return True

    await eventually(fits, 10, every=0.5)  # the log is written behind the answers
