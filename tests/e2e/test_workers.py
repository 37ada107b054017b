"""The worker's image in a Deployment made by hand: what workers promise, without an operator that looks after them."""

import pytest

from tests.support.e2e import images, load, manifests
from tests.support.e2e.queues import LoadQueue, deleted, image_of
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e

JOBS = 300
WORKERS = "app=workers"


@pytest.fixture
def env(api, namespace, bullpen_images, redis_image, ready):
    """A Redis and an application in the namespace; gives what a pod needs to know of Redis."""
    found = {"BULLPEN_REDIS_URL": f"redis://redis.{namespace}:6379"}
    api.install([*manifests.redis(namespace), manifests.toolbox(namespace, found)])
    ready(namespace, "deploy/redis", "deploy/toolbox")
    return found


def test_a_rollout_evictions_and_a_scale_down_spend_no_attempt(api, namespace, env, toolbox, ended):
    queue = LoadQueue(api, namespace)
    api.create(manifests.workers(namespace, images.LOAD, env, replicas=5, slots=5))
    eventually_sync(lambda: len(queue.ready_pods(WORKERS)) == 5, 60, every=0.1)
    with queue.watch_pods(WORKERS) as watch:
        toolbox.produce(JOBS, longest=5)
        api.apply(manifests.workers(namespace, images.LOAD_2, env, replicas=5, slots=5))
        eventually_sync(lambda: {image_of(pod) for pod in queue.pods(WORKERS)} == {images.LOAD_2}, 60, every=0.1)
        for pod in queue.pods(WORKERS)[:2]:
            queue.evict(pod["metadata"]["name"])
        eventually_sync(lambda: len(queue.ready_pods(WORKERS)) == 5, 60, every=0.1)
        change = {"spec": {"replicas": 1}}
        api.patch("apps/v1", "Deployment", namespace, "workers", change, subresource="scale")
        ended(JOBS)
        gone = deleted(watch)
    jobs = toolbox.report(JOBS)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert set(load.by_version(jobs)) == {"1", "2"}
    # Nobody retired these pods: they were deleted with work in them, and finished it.
    assert len(gone) >= 5 + 2 + 4
    assert load.cut(jobs, gone)
