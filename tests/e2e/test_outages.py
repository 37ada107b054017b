"""What goes away under load, and comes back: Redis, the operator, the release as a whole."""

import re
import shlex

import pytest

from tests.docs import on_clusters
from tests.support.e2e import load
from tests.support.e2e.queues import VERSION, deleted
from tests.support.e2e.release import NAMESPACE
from tests.support.e2e.shells import CommandFailed
from tests.support.kubernetes.watching import Watch
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.e2e


def kill(kubectl, pod, *how):
    kubectl("delete", "pod", "-n", NAMESPACE, pod, *how, timeout=150)


def numbers(watch):
    """The replicas that the Deployment was to have, in order, each as long as it was another."""
    asked = [event.object["spec"]["replicas"] for event in watch.events if event.type != "DELETED"]
    return [number for at, number in enumerate(asked) if at == 0 or number != asked[at - 1]]


def rises_once(found):
    """Whether these numbers go up to their highest, and then down."""
    top = found.index(max(found))
    return found[: top + 1] == sorted(found[: top + 1]) and found[top:] == sorted(found[top:], reverse=True)


def test_a_killed_redis_comes_back_with_its_jobs_and_users(api, release, make_queue, toolbox, ended, kubectl):
    queue = make_queue()
    toolbox.produce(200, longest=5)
    eventually_sync(lambda: len(queue.ready_pods()) == 5, 60, every=0.1)
    before = release.pods("redis")[0]["metadata"]["uid"]
    kill(kubectl, "bullpen-redis-0", "--grace-period=1")
    eventually_sync(lambda: [pod["metadata"]["uid"] for pod in release.pods("redis")] not in ([], [before]), 60)
    kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "pod/bullpen-redis-0", "--timeout=60s", timeout=70)

    def let_in():
        try:
            return toolbox.report(1)
        except CommandFailed:
            return None

    eventually_sync(let_in, 5)  # the application's own user is there again
    ended(200)
    jobs = toolbox.report(200)
    assert [job for job in jobs if job.failed or job.attempts_made != 1] == []
    eventually_sync(lambda: queue.pods() == [], 90, every=0.2)


def test_an_operator_that_is_killed_while_it_scales_leaves_no_jump(api, release, make_queue, toolbox, ended, kubectl):
    queue = make_queue()
    with (
        Watch(api, "apps/v1", "Deployment", queue.namespace, labels="bullpen.dev/jobqueue=load") as watch,
        queue.watch_pods() as pods,
    ):
        toolbox.produce(150, longest=5)
        eventually_sync(lambda: queue.pods() != [], 30)
        leader = release.leader()
        kill(kubectl, leader, "--grace-period=0", "--force")
        eventually_sync(lambda: release.leader() not in ("", leader), 30, every=0.1)
        ended(150)
        eventually_sync(lambda: len(queue.pods()) < 5, 60)
        kill(kubectl, release.leader(), "--grace-period=0", "--force")
        eventually_sync(lambda: queue.pods() == [], 90, every=0.2)
        asked, gone = numbers(watch), deleted(pods)
    assert rises_once(asked), asked
    assert max(asked) == 5
    jobs = toolbox.report(150)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert load.cut(jobs, gone) == []


def look_as_the_pages_say(kubectl, namespace):
    """Type what the pages have one type where pods run, with the names that there are here."""
    commands = [one.text for one in on_clusters.commands() if one.needs_a_node]
    assert len(commands) > 2
    here = {"bullpen-system": NAMESPACE, "shop": namespace, "emails-worker": "load-worker"}
    for command in commands:
        typed = re.sub("|".join(here), lambda name: here[name[0]], command)
        kubectl(*shlex.split(typed)[1:])


def test_an_upgrade_of_the_chart_touches_no_worker(release, make_queue, toolbox, ended, kubectl):
    queue = make_queue(scaling={"zeroAfter": "30s"})
    toolbox.produce(300, longest=5)
    eventually_sync(lambda: len(queue.ready_pods()) == 5, 60, every=0.1)
    look_as_the_pages_say(kubectl, queue.namespace)
    with queue.watch_pods() as watch:
        operators = {pod["metadata"]["name"] for pod in release.pods()}
        release.install(log={"level": "debug"})
        assert operators.isdisjoint(pod["metadata"]["name"] for pod in release.pods())
        ended(300)
        gone = deleted(watch)
    jobs = toolbox.report(300)
    assert load.spent(jobs) == []
    assert load.twice_at_once(jobs) == []
    assert len({job.pod for job in jobs}) == 5
    assert load.cut(jobs, gone) == []


def test_uninstalling_leaves_workers_and_no_finalizer(api, release, make_queue, toolbox, ended, namespace):
    queue = make_queue(deletion={"policy": "Drain"})
    toolbox.produce(50, longest=5)
    eventually_sync(lambda: queue.ready_pods() != [], 60, every=0.1)
    assert queue.get()["metadata"].get("finalizers")
    release.uninstall()
    assert not queue.get()["metadata"].get("finalizers")
    assert queue.pods() != []  # who looks after them is gone; they work on
    api.delete(VERSION, "JobQueue", namespace, "load")
    eventually_sync(lambda: api.find(VERSION, "JobQueue", namespace, "load") is None, 10)
    api.delete("v1", "Namespace", "", namespace)
    api.delete("v1", "Namespace", "", NAMESPACE)
    eventually_sync(lambda: api.find("v1", "Namespace", "", NAMESPACE) is None, 60, every=0.2)
    eventually_sync(lambda: api.find("v1", "Namespace", "", namespace) is None, 120, every=0.2)
