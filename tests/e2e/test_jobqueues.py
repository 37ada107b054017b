"""What a user sees of a JobQueue on a real cluster: workers come from zero, follow the work, and go; no job is cut."""

import pytest

from tests.support.e2e import images, load, manifests
from tests.support.e2e.queues import deleted, image_of
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e


def test_workers_come_from_zero_follow_the_work_and_go(make_queue, toolbox, ended, kubectl):
    queue = make_queue()
    assert queue.pods() == []
    with queue.watch_pods() as watch:
        toolbox.produce(200, longest=3)
        eventually_sync(lambda: len(queue.pods()) == 5, 30, every=0.1)
        ended(200)
        eventually_sync(lambda: queue.pods() == [], 90, every=0.2)
        gone = deleted(watch)
    jobs = toolbox.report(200)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert len({job.pod for job in jobs}) == 5
    assert len(gone) == 5
    assert load.cut(jobs, gone) == []
    eventually_sync(lambda: queue.status["replicas"] == 0, 30, every=0.2)
    assert kubectl("get", "jobq", "-n", queue.namespace).split()[:4] == ["NAME", "READY", "WAITING", "ACTIVE"]


def test_a_rollout_evictions_and_a_scale_down_cut_no_job(make_queue, toolbox, ended):
    count = 2_000
    queue = make_queue(concurrency={"perWorker": 4}, scaling={"maxReplicas": 10})
    with queue.watch_pods() as watch:
        toolbox.produce(count)
        eventually_sync(lambda: len(queue.ready_pods()) == 10, 90, every=0.2)

        queue.change(worker={"image": images.LOAD_2})
        eventually_sync(lambda: queue.images() == {images.LOAD_2}, 120, every=0.2)
        evicted = {pod["metadata"]["name"] for pod in queue.ready_pods()[:2]}
        for pod in evicted:
            queue.evict(pod)
        eventually_sync(lambda: len(queue.ready_pods()) == 10, 60, every=0.2)

        queue.change(scaling={"maxReplicas": 2})
        eventually_sync(lambda: len(queue.pods()) == 2, 120, every=0.2)
        left = sum(not job.finished for job in toolbox.report(count))
        queue.change(scaling={"maxReplicas": 10})
        ended(count)
        eventually_sync(lambda: queue.pods() == [], 90, every=0.2)
        shrunk = deleted(watch, lambda pod: pod["metadata"]["name"] not in evicted and image_of(pod) == images.LOAD_2)
    jobs = toolbox.report(count)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert set(load.by_version(jobs)) == {"1", "2"}
    assert left > 0, "the scale-down was to happen while jobs ran: make the load longer"
    assert len(shrunk) == 8 + 10
    assert load.cut(jobs, shrunk) == []


def test_a_rollout_that_meets_an_empty_queue_holds_nobody(make_queue, toolbox, ended):
    queue = make_queue(scaling={"maxReplicas": 4, "zeroAfter": "2s"})
    toolbox.produce(40, longest=2)
    eventually_sync(lambda: len(queue.ready_pods()) == 4, 60, every=0.1)
    queue.change(worker={"image": images.LOAD_2})
    ended(40)
    eventually_sync(lambda: queue.pods() == [], 90, every=0.2)
    jobs = toolbox.report(40)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []


def test_a_deployment_of_node_workers_is_scaled(api, namespace, make_queue, toolbox, ended, node_worker_image):
    slots = 5
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "node-workers", "slotsPerReplica": slots}
    api.create(manifests.node_workers(namespace, "load-binding", slots=slots, scaled_by="load"))
    queue = make_queue(scaleTargetRef={**target, "shrink": "WhenIdle"}, scaling={"maxReplicas": 3})
    labels = "app=node-workers"
    with queue.watch_pods(labels) as watch:
        toolbox.produce(100, longest=3)
        eventually_sync(lambda: len(queue.pods(labels)) == 3, 30, every=0.1)
        ended(100)
        eventually_sync(lambda: queue.pods(labels) == [], 120, every=0.2)
        gone = deleted(watch)
    jobs = toolbox.report(100)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert set(load.by_version(jobs)) == {"node"}
    assert load.cut(jobs, gone) == []


def test_a_namespace_goes_with_its_jobqueues(api, namespace, make_queue, toolbox):
    queue = make_queue(deletion={"policy": "Drain", "timeout": "10m"})
    toolbox.produce(50, longest=2)
    eventually_sync(lambda: queue.ready_pods() != [], 60, every=0.2)
    api.delete("v1", "Namespace", "", namespace)
    eventually_sync(lambda: api.find("v1", "Namespace", "", namespace) is None, 150, every=0.5)
