"""The example for a cluster: what `kubectl apply -k examples/studio` brings is taken by a real API server, restricted pods and all."""

from pathlib import Path

import pytest

from bullpen.api.v1alpha1 import JobQueue

STUDIO = Path(__file__).parents[2] / "examples" / "studio"
QUEUES = {"sketch-generation", "emotion-analysis", "email-notifications", "payment-processing"}


@pytest.fixture(scope="module")
def applied(api_server, bullpen_api):
    api_server.kubectl("apply", "--server-side", "-k", str(STUDIO))
    yield bullpen_api
    api_server.kubectl("delete", "namespace", "studio", "--wait=false")


def test_the_four_queues_are_jobqueues_with_the_image_and_the_world_of_the_studio(applied):
    found = {each["metadata"]["name"]: each for each in applied.list("bullpen.dev/v1alpha1", "JobQueue", "studio")}
    assert found.keys() == QUEUES
    for obj in found.values():
        spec = JobQueue.model_validate(obj | {"metadata": {"name": obj["metadata"]["name"]}, "status": None}).spec
        assert spec.worker is not None
        assert spec.worker.image == "localhost/studio:1"
        assert {each.name for each in spec.worker.env} == {"STUDIO_OUT", "STUDIO_SMTP", "STUDIO_GATEWAY"}


def test_the_producer_mounts_the_binding_of_each_queue(applied):
    pod = applied.get("batch/v1", "Job", "studio", "feed")["spec"]["template"]["spec"]
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"]}
    mounts = {each["mountPath"]: secrets[each["name"]] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts == {f"/bindings/{queue}": f"{queue}-binding" for queue in QUEUES}


def test_its_pods_are_restricted(applied):
    namespace = applied.get("v1", "Namespace", "", "studio")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for version, kind, name in (("apps/v1", "Deployment", "outside"), ("batch/v1", "Job", "feed")):
        template = applied.get(version, kind, "studio", name)["spec"]["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "studio"},
            "spec": template["spec"],
        }
        pod["spec"].setdefault("restartPolicy", "Never")
        assert applied.create(pod)["spec"]["containers"][0]["image"] == "localhost/studio:1"
