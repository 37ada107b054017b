"""The chart's hooks on a real API server: what their Jobs do before, beside and after the release.

There is no node, so the Jobs do not run by themselves: a test does what they would, as the accounts that they have, with the
rights that the chart gives them.
"""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from bullpen_operator import hooks
from bullpen_operator.kube import access
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.kinds import FINALIZER
from tests.chart.rendering import CHART, EVERYTHING, NAMESPACE, Chart, Objects
from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.kubernetes.audit import Audit, unused
from tests.support.waiting import eventually

CRDS = CHART / "files" / "crds" / "crd.yaml"


class Jobs:
    """Runs the hooks' Jobs as a node would: with the account, the rights, the arguments and the environment of each."""

    def __init__(self, server: ApiServer, objects: Objects) -> None:
        self._server = server
        self._hooks = objects.hooks
        self._api = server.api()

    async def run(self, name: str) -> list[str]:
        """Run one; give the rules of its roles that it had no use for."""
        job = self._hooks.one("Job", name)
        when = job["metadata"]["annotations"]["helm.sh/hook"]
        roles = []
        for obj in self._hooks:
            if obj["metadata"]["annotations"]["helm.sh/hook"] == when and obj["kind"] != "Job":
                self._api.apply(obj)
                roles += [obj] if obj["kind"] in {"Role", "ClusterRole"} else []
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        login = self._server.service_account(NAMESPACE, spec["serviceAccountName"])
        mark = Audit(self._server.audit_log).mark()
        environment = {one["name"]: one["value"] for one in container.get("env", [])}
        os.environ.update(environment)
        try:
            await hooks.run(container["args"], kubeconfig=str(login.kubeconfig))
        finally:
            for key in environment:
                del os.environ[key]
        did = Audit(self._server.audit_log).since(mark, user=login.user)
        assert did.refused() == []
        return [use for role in roles for use in unused(role["rules"], did)]


@pytest.fixture
def jobs(own_api_server: ApiServer, chart: Chart) -> Jobs:
    """The hooks of a cluster-wide install with a Redis."""
    own_api_server.api().namespace(NAMESPACE)
    return Jobs(own_api_server, chart.objects(EVERYTHING))


async def test_a_password_is_made_once(own_api_server, jobs):
    api = own_api_server.api()
    assert await jobs.run("bullpen-redis-password") == []
    made = api.get("v1", "Secret", NAMESPACE, "bullpen-redis")
    assert made["data"].keys() == {"username", "password"}
    assert len(made["data"]["password"]) > 40
    await jobs.run("bullpen-redis-password")
    assert api.get("v1", "Secret", NAMESPACE, "bullpen-redis")["data"] == made["data"]


async def test_the_connection_is_applied_once_its_kind_is_served(own_api_server, jobs):
    api = own_api_server.api()
    running = asyncio.create_task(jobs.run("bullpen-redis-connection"))
    account = f"system:serviceaccount:{NAMESPACE}:bullpen-redis-connection"
    await eventually(lambda: Audit(own_api_server.audit_log).since(user=account).uses(), timeout=30, every=0.05)
    assert not running.done()
    await asyncio.to_thread(api.install, CRDS.read_text())
    await running
    connection = api.get("bullpen.dev/v1alpha1", "ClusterRedisConnection", "", "bullpen")
    assert connection["metadata"]["annotations"]["bullpen.dev/default"] == "true"
    assert connection["spec"]["endpoints"] == [f"redis://bullpen-redis.{NAMESPACE}.svc:6379/0"]
    before = connection["metadata"]["resourceVersion"]
    await jobs.run("bullpen-redis-connection")
    assert (
        api.get("bullpen.dev/v1alpha1", "ClusterRedisConnection", "", "bullpen")["metadata"]["resourceVersion"]
        == before
    )


def jobqueue(api: Api, name: str, *finalizers: str, **spec: object) -> None:
    api.create(
        {
            "apiVersion": "bullpen.dev/v1alpha1",
            "kind": "JobQueue",
            "metadata": {"name": name, "namespace": NAMESPACE, "finalizers": list(finalizers)},
            "spec": spec,
        }
    )


async def test_what_leaves_takes_its_finalizers_and_nobody_elses(own_api_server, chart, jobs):
    api = own_api_server.api()
    api.install(CRDS.read_text())
    (deployment,) = chart.objects().of("Deployment")
    api.apply(deployment)
    await jobs.run("bullpen-redis-connection")
    jobqueue(api, "mine", FINALIZER, "example.com/theirs")
    jobqueue(api, "mine-too", FINALIZER)
    jobqueue(api, "without")
    jobqueue(api, "of-another-class", FINALIZER, className="teams")
    api.delete("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "mine-too")

    assert await jobs.run("bullpen-release") == []

    def finalizers(name: str) -> list[str]:
        return api.get("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, name)["metadata"].get("finalizers", [])

    assert finalizers("mine") == ["example.com/theirs"]
    assert finalizers("of-another-class") == [FINALIZER]
    assert api.find("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "mine-too") is None
    assert api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")["spec"]["replicas"] == 0
    assert api.find("bullpen.dev/v1alpha1", "ClusterRedisConnection", "", "bullpen") is None
    await jobs.run("bullpen-release")


async def test_it_leaves_also_where_its_kinds_have_gone(own_api_server, jobs):
    await jobs.run("bullpen-release")


class Hours:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def waiting(self) -> hooks.Waiting:
        return hooks.Waiting(clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture
async def kube(own_api_server: ApiServer) -> AsyncIterator[Kube]:
    async with Kube(await access.configuration(str(own_api_server.admin.kubeconfig))) as found:
        yield found


async def test_a_kind_that_never_comes_is_said(kube):
    hours = Hours()
    connection = {"apiVersion": "bullpen.dev/v1alpha1", "kind": "ClusterRedisConnection", "metadata": {"name": "a"}}
    with pytest.raises(hooks.HookFailed, match="ClusterRedisConnection is not served 90 s after its CRD"):
        await hooks.apply_when_served(kube, connection, hours.waiting)
    assert hours.now == pytest.approx(hooks.SERVED_SECONDS, abs=1)


async def test_a_pod_that_does_not_end_holds_nobody_up_for_ever(own_api_server, chart, kube):
    api = own_api_server.api()
    api.namespace(NAMESPACE)
    (deployment,) = chart.objects().of("Deployment")
    api.apply(deployment)
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bullpen", "namespace": NAMESPACE}})
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    metadata = {"name": "stuck", "namespace": NAMESPACE, "labels": labels}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    hours = Hours()
    assert not await hooks.stop_operator(kube, NAMESPACE, "bullpen", labels, hours.waiting)
    assert hours.now == pytest.approx(hooks.STOPPED_SECONDS, abs=1)
    assert api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")["spec"]["replicas"] == 0


async def test_a_finalizer_that_a_policy_keeps_is_said_and_the_others_come_off(own_api_server, kube):
    api = own_api_server.api()
    api.namespace(NAMESPACE)
    api.install(CRDS.read_text())
    for name in ("kept", "mine"):
        jobqueue(api, name, FINALIZER)
    rule = {
        "apiGroups": ["bullpen.dev"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["jobqueues"],
        "resourceNames": ["kept"],
    }
    policy = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "frozen"}}
    validation = {"expression": "false", "message": "frozen until Monday", "reason": "Invalid"}
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
    api.create({**policy, "kind": "ValidatingAdmissionPolicy", "spec": spec})
    bound = {"policyName": "frozen", "validationActions": ["Deny"]}
    api.create({**policy, "kind": "ValidatingAdmissionPolicyBinding", "spec": bound})

    def frozen() -> bool:
        try:
            api.patch("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "kept", {"metadata": {"labels": {"a": "b"}}})
        except ApiError:
            return True
        return False

    await eventually(lambda: asyncio.to_thread(frozen), 30, every=0.1)
    hours = Hours()
    with pytest.raises(hooks.HookFailed, match=r"kept keeps its finalizer .* by hand: .*frozen until Monday"):
        await hooks.take_finalizers_off(kube, (), "", hours.waiting)
    assert hours.now == pytest.approx(hooks.RELEASED_SECONDS, abs=1)
    mine = api.get("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "mine")
    assert mine["metadata"].get("finalizers", []) == []
