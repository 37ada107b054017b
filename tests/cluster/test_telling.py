"""What the operator tells of scaling beside the status: events of changes, and series that go with whom they are of."""

from bullpen.queue.keys import QueueKeys
from tests.support.operators import VERSION, conditions, is_ready, jobqueue, running
from tests.support.waiting import eventually

KEYS = QueueKeys("bull", "emails")


def events(api, namespace, *reasons):
    found = api.list("events.k8s.io/v1", "Event", namespace)
    return [(each["reason"], each["note"]) for each in found if each["reason"] in reasons]


def series(operator, namespace):
    return [line for line in operator._render().decode().splitlines() if f'{{namespace="{namespace}",' in line]


async def test_each_change_of_the_number_is_an_event_with_its_figures(api_server, api, cluster, redis):
    async with running(api_server.admin, cluster):
        api.apply(jobqueue(cluster, scaling={"maxReplicas": 3, "zeroAfter": "0s",
                                             "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}))  # fmt: skip
        await eventually(lambda: is_ready(api, cluster), 15)
        redis.lpush(KEYS.wait, *["1"] * 45)
        redis.xadd(KEYS.events, {"event": "added", "jobId": "1"})
        (up,) = await eventually(lambda: events(api, cluster, "ScaleUp"), 15)
        assert up[1] == "0 → 3 replicas: 45 jobs (45 waiting) need 5 at 10 jobs per replica; maxReplicas: 3"
        redis.delete(KEYS.wait)
        downs = await eventually(lambda: events(api, cluster, "ScaleDown"), 30)
        assert any(note.startswith("3 → ") for _, note in downs), downs  # to one perhaps, and then to none
    async with running(api_server.admin, cluster) as second:
        await eventually(lambda: second.prepared and second.queue.idle, 15)
        await eventually(lambda: second._scaler.state(next(iter(second._scaler._cares))).desired == 0, 15)
        await eventually(lambda: api.get(VERSION, "JobQueue", cluster, "emails")["status"]["scaling"]["desiredReplicas"] == 0, 15)  # fmt: skip
    assert len(events(api, cluster, "ScaleUp")) == 1


async def test_series_go_when_another_class_takes_the_jobqueue(api_server, api, cluster):
    async with running(api_server.admin, cluster) as one:
        api.apply(jobqueue(cluster))
        await eventually(lambda: series(one, cluster), 15)
        api.patch(VERSION, "JobQueue", cluster, "emails", {"spec": {"className": "blue"}})
        await eventually(lambda: not series(one, cluster), 15)


async def test_series_go_when_the_queue_is_another_jobqueues(api_server, api, cluster, redis):
    async with running(api_server.admin, cluster) as one:
        api.apply(jobqueue(cluster))
        await eventually(lambda: series(one, cluster), 15)
        redis.hset(KEYS.owner, mapping={"v": "1", "id": "elsewhere/shop/emails", "released": "0"})
        api.apply(jobqueue(cluster, scaling={"maxReplicas": 4}))
        await eventually(lambda: conditions(api, cluster).get("Ready") == ("False", "OwnedElsewhere"), 15)
        await eventually(lambda: not series(one, cluster), 15)
