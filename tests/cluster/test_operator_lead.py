"""Two operators, one leader: which goes in order, is killed, or freezes. Processes, real lease, real time."""

import pytest

from bullpen import SyncClient
from tests.support import operators
from tests.support.kubernetes.audit import Audit
from tests.support.operators import VERSION, is_ready, jobqueue, worker
from tests.support.waiting import Stopwatch, eventually_sync

LEASES = "coordination.k8s.io/v1"


@pytest.fixture
def two(api_server, cluster, tmp_path):
    """Operators a and b; a leads. Each is a user of its own, so that the audit log tells them apart."""
    logins = [api_server.login(f"{name}-{cluster}", "system:masters") for name in "ab"]
    with operators.process(logins[0], cluster, "a", tmp_path) as a:
        eventually_sync(lambda: holder(api_server, cluster) == "a", 20)
        with operators.process(logins[1], cluster, "b", tmp_path) as b:
            eventually_sync(lambda: "informers_synced" in b.lines, 20)
            yield a, b


def lease(api_server, namespace):
    found = api_server.api().find(LEASES, "Lease", namespace, "bullpen-operator")
    return found["spec"] if found else {}


def holder(api_server, namespace):
    return lease(api_server, namespace).get("holderIdentity")


def writes(api_server, mark, user):
    """What was tried to be written, refused or not."""
    did = Audit(api_server.audit_log).since(mark, user=user).writes()
    return [str(event.use) for event in did if event.use.resource != "leases"]


def test_one_that_ends_in_order_hands_over(api_server, api, cluster, two):
    a, _ = two
    api.apply(jobqueue(cluster))
    eventually_sync(lambda: is_ready(api, cluster), 10)
    with Stopwatch() as watch:
        assert a.end() == 0
        eventually_sync(lambda: holder(api_server, cluster) == "b")
    assert "lease_released" in a.lines
    api.apply(jobqueue(cluster, "second"))
    eventually_sync(lambda: is_ready(api, cluster, "second"), 10)
    assert watch.seconds < 12  # 3 s where the machine has nothing else to do; whose lease runs out is followed after 15


def test_one_that_is_killed_is_followed(api_server, api, cluster, two):
    a, _ = two
    a.end(operators.signal.SIGKILL)
    api.apply(jobqueue(cluster))
    eventually_sync(lambda: is_ready(api, cluster), 25)
    assert holder(api_server, cluster) == "b"


def test_one_that_freezes_writes_nothing_when_it_wakes(api_server, api, cluster, two, server):
    a, _ = two
    api.apply(jobqueue(cluster, scaling={"maxReplicas": 5, "jobsPerReplica": 1}))
    eventually_sync(lambda: is_ready(api, cluster), 10)
    a.freeze()
    eventually_sync(lambda: holder(api_server, cluster) == "b", 25)
    # What it will want to do as soon as it wakes: by its own knowledge there are jobs, and no worker.
    with SyncClient(server.url) as client:
        for number in range(3):
            client.queue("emails").enqueue("welcome", {"number": number})
    eventually_sync(lambda: made(api, cluster).get("replicas") == 3, 20)
    api.delete("apps/v1", "Deployment", cluster, "emails-worker")
    eventually_sync(lambda: made(api, cluster).get("replicas") == 3, 20)
    mark = Audit(api_server.audit_log).mark()
    a.thaw()
    eventually_sync(lambda: "leads_no_more" in a.lines, 10)
    api.apply(jobqueue(cluster, "third"))
    eventually_sync(lambda: is_ready(api, cluster, "third"), 10)
    assert writes(api_server, mark, f"a-{cluster}") == []
    assert holder(api_server, cluster) == "b"
    assert a.end() == 0
    assert holder(api_server, cluster) == "b"


def made(api, namespace):
    found = worker(api, namespace)
    return found["spec"] if found else {}


def test_one_that_waits_writes_nothing_and_is_ready(api_server, api, cluster, two):
    mark = Audit(api_server.audit_log).mark()
    api.apply(jobqueue(cluster))
    eventually_sync(lambda: is_ready(api, cluster), 10)
    did = writes(api_server, mark, f"b-{cluster}")
    # A leader that the machine gives no time for seconds is followed by the other, as it should be.
    assert did == [] or lease(api_server, cluster)["leaseTransitions"] > 0
    assert api.get(VERSION, "JobQueue", cluster, "emails")["status"]["conditions"]
