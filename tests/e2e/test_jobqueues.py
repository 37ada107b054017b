"""What a user sees of a JobQueue on a real cluster: workers come from zero, follow the work, and go; no job is cut."""

import contextlib

import pytest

from tests.support.e2e import images, load, manifests
from tests.support.kubernetes.api import ApiError
from tests.support.kubernetes.watching import Watch
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

VERSION = "bullpen.dev/v1alpha1"
OURS = "bullpen.dev/jobqueue=load"


@pytest.fixture
def queue(api, namespace, release, ready):
    """Make a JobQueue `load` with this spec, and an application in its namespace that has its binding."""

    def make(**spec):
        wanted = manifests.jobqueue(namespace, **spec)
        if "scaleTargetRef" not in spec:
            wanted["spec"].setdefault("worker", manifests.handlers())
        api.create(wanted)
        eventually_sync(lambda: condition(api, namespace, "Ready") == "True", 60, every=0.2)
        binding = api.get(VERSION, "JobQueue", namespace, "load")["status"]["binding"]["name"]
        api.create(manifests.toolbox(namespace, {}, binding=binding))
        ready(namespace, "deploy/toolbox")
        return binding

    return make


def condition(api, namespace, type):
    status = api.get(VERSION, "JobQueue", namespace, "load").get("status", {})
    return next((c["status"] for c in status.get("conditions", []) if c["type"] == type), None)


def living(api, namespace, labels=OURS):
    found = api.list("v1", "Pod", namespace, labels=labels)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def running(api, namespace, labels=OURS):
    return [pod for pod in living(api, namespace, labels) if is_ready(pod)]


def change(api, namespace, **spec):
    api.patch(VERSION, "JobQueue", namespace, "load", {"spec": spec})


def evict(api, namespace, pod):
    """Evict a pod as `kubectl drain` does: again while a budget does not allow it."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}

    def allowed():
        try:
            api.request("POST", api.path("v1", "Pod", namespace, pod, subresource="eviction"), body)
        except ApiError as error:
            if error.status != 429:
                raise
            return False
        return True

    eventually_sync(allowed, 60, every=0.5)


def deleted(watch):
    return watch.first(lambda pod: "deletionTimestamp" in pod["metadata"])


def test_workers_come_from_zero_follow_the_work_and_go(api, namespace, queue, toolbox, ended, kubectl):
    queue()
    assert living(api, namespace) == []
    with Watch(api, "v1", "Pod", namespace, labels=OURS) as watch:
        toolbox.produce(200, longest=3)
        eventually_sync(lambda: len(living(api, namespace)) == 5, 30, every=0.1)
        ended(200)
        eventually_sync(lambda: living(api, namespace) == [], 90, every=0.2)
        gone = deleted(watch)
    jobs = toolbox.report(200)
    assert load.spent(jobs) == []
    assert len({job.pod for job in jobs}) == 5
    assert len(gone) == 5
    assert load.cut(jobs, gone) == []
    eventually_sync(lambda: api.get(VERSION, "JobQueue", namespace, "load")["status"]["replicas"] == 0, 30)
    assert kubectl("get", "jobq", "-n", namespace).split()[:4] == ["NAME", "READY", "WAITING", "ACTIVE"]


def test_a_rollout_evictions_and_a_scale_down_cut_no_job(api, namespace, queue, toolbox, ended):
    count = 2_000
    queue(concurrency={"perWorker": 10}, scaling={"maxReplicas": 10})
    with Watch(api, "v1", "Pod", namespace, labels=OURS) as watch:
        toolbox.produce(count)
        eventually_sync(lambda: len(running(api, namespace)) == 10, 90, every=0.2)

        change(api, namespace, worker={"image": images.LOAD_2})
        eventually_sync(
            lambda: {pod["spec"]["containers"][0]["image"] for pod in living(api, namespace)} == {images.LOAD_2},
            120,
            every=0.2,
        )
        evicted = {pod["metadata"]["name"] for pod in running(api, namespace)[:2]}
        for pod in evicted:
            evict(api, namespace, pod)
        eventually_sync(lambda: len(running(api, namespace)) == 10, 60, every=0.2)

        change(api, namespace, scaling={"maxReplicas": 2})
        eventually_sync(lambda: len(living(api, namespace)) == 2, 120, every=0.2)
        left = sum(not job.finished for job in toolbox.report(count))
        ended(count)
        eventually_sync(lambda: living(api, namespace) == [], 90, every=0.2)
        gone = deleted(watch)
    jobs = toolbox.report(count)
    assert load.spent(jobs) == []
    assert set(load.by_version(jobs)) == {"1", "2"}
    assert left > 0, "the scale-down was to happen while jobs ran: make the load longer"
    shrunk = {
        name: event
        for name, event in gone.items()
        if name not in evicted and event.object["spec"]["containers"][0]["image"] == images.LOAD_2
    }
    assert len(shrunk) == 10
    assert load.cut(jobs, shrunk) == []


def test_a_deployment_of_node_workers_is_scaled(api, namespace, queue, toolbox, ended, node_worker_image):
    slots = 5
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "node-workers", "slotsPerReplica": slots}
    api.create(manifests.node_workers(namespace, "load-binding", slots=slots, scaled_by="load"))
    binding = queue(scaleTargetRef={**target, "shrink": "WhenIdle"}, scaling={"maxReplicas": 3})
    assert binding == "load-binding"
    labels = "app=node-workers"
    with Watch(api, "v1", "Pod", namespace, labels=labels) as watch:
        toolbox.produce(100, longest=3)
        eventually_sync(lambda: len(living(api, namespace, labels)) == 3, 30, every=0.1)
        ended(100)
        eventually_sync(lambda: living(api, namespace, labels) == [], 120, every=0.2)
        gone = deleted(watch)
    jobs = toolbox.report(100)
    assert load.spent(jobs) == []
    assert set(load.by_version(jobs)) == {"node"}
    assert load.cut(jobs, gone) == []


def test_a_namespace_goes_with_its_jobqueues(api, namespace, queue, toolbox, kubectl):
    queue(deletion={"policy": "Drain", "timeout": "10m"})
    toolbox.produce(50, longest=2)
    eventually_sync(lambda: running(api, namespace) != [], 60, every=0.2)
    api.delete("v1", "Namespace", "", namespace)
    with contextlib.suppress(ApiError):
        eventually_sync(lambda: api.find("v1", "Namespace", "", namespace) is None, 150, every=0.5)
    assert api.find("v1", "Namespace", "", namespace) is None
