"""The worker's image in a Deployment made by hand: what workers promise, without an operator that looks after them."""

import pytest

from tests.support.e2e import images, load, manifests
from tests.support.kubernetes.watching import Watch
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

JOBS = 300


@pytest.fixture
def env(api, namespace, bullpen_images, redis_image, ready):
    """A Redis and an application in the namespace; gives what a pod needs to know of Redis."""
    found = {"BULLPEN_REDIS_URL": f"redis://redis.{namespace}:6379"}
    api.install([*manifests.redis(namespace), manifests.toolbox(namespace, found)])
    ready(namespace, "deploy/redis", "deploy/toolbox")
    return found


def pods(api, namespace):
    return [
        pod
        for pod in api.list("v1", "Pod", namespace, labels="app=workers")
        if "deletionTimestamp" not in pod["metadata"]
    ]


def ready_pods(api, namespace):
    return [
        pod
        for pod in pods(api, namespace)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]


def evict(api, namespace, pod):
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
    api.request("POST", api.path("v1", "Pod", namespace, pod, subresource="eviction"), body)


def test_a_rollout_evictions_and_a_scale_down_spend_no_attempt(api, namespace, env, toolbox, ended):
    api.create(manifests.workers(namespace, images.LOAD, env, replicas=5, slots=5))
    eventually_sync(lambda: len(ready_pods(api, namespace)) == 5, 60, every=0.1)
    with Watch(api, "v1", "Pod", namespace, labels="app=workers") as watch:
        toolbox.produce(JOBS, longest=5)
        api.apply(manifests.workers(namespace, images.LOAD_2, env, replicas=5, slots=5))
        eventually_sync(
            lambda: {p["spec"]["containers"][0]["image"] for p in pods(api, namespace)} == {images.LOAD_2},
            60,
            every=0.1,
        )
        for pod in pods(api, namespace)[:2]:
            evict(api, namespace, pod["metadata"]["name"])
        eventually_sync(lambda: len(ready_pods(api, namespace)) == 5, 60, every=0.1)
        change = {"spec": {"replicas": 1}}
        api.patch("apps/v1", "Deployment", namespace, "workers", change, subresource="scale")
        ended(JOBS)
        deleted = watch.first(lambda pod: "deletionTimestamp" in pod["metadata"])
    jobs = toolbox.report(JOBS)
    assert load.spent(jobs) == []
    assert set(load.by_version(jobs)) == {"1", "2"}
    # Nobody retired these pods: they were deleted with work in them, and finished it.
    assert len(deleted) >= 5 + 2 + 4
    assert load.cut(jobs, deleted)
