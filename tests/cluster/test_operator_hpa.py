"""A HorizontalPodAutoscaler on a JobQueue's scale subresource, in mode Manual: real controllers, no metrics, no node."""

from tests.support import operators
from tests.support.operators import VERSION, is_ready, jobqueue, redis_connection, running
from tests.support.waiting import eventually


async def test_its_minimum_raises_the_jobqueue_and_so_the_workers(control_plane, server, redis):
    api = control_plane.api()
    api.install(operators.CRDS.read_text())
    namespace = api.namespace("scaled-by-hpa")
    api.apply(redis_connection(namespace, server.url))
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "emails", "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": VERSION, "kind": "JobQueue", "name": "emails"},
            "minReplicas": 3,
            "maxReplicas": 6,
        },
    }
    async with running(control_plane.admin, namespace):
        api.apply(jobqueue(namespace, scaling=None, replicas=1))
        await eventually(lambda: is_ready(api, namespace), 20)
        api.apply(hpa)
        await eventually(lambda: api.get(VERSION, "JobQueue", namespace, "emails")["spec"]["replicas"] == 3, 60)
        await eventually(
            lambda: api.get("apps/v1", "Deployment", namespace, "emails-worker")["spec"]["replicas"] == 3, 15
        )
        # What it scales by is what there is: pods, counted by the status, found by the selector.
        await eventually(lambda: api.get(VERSION, "JobQueue", namespace, "emails")["status"]["replicas"] == 3, 30)
        scale = api.get(VERSION, "JobQueue", namespace, "emails", subresource="scale")
        assert scale["status"]["selector"] == "app.kubernetes.io/component=worker,bullpen.dev/jobqueue=emails"
