"""The Deployment that follows from a JobQueue."""

import json

import pytest

from bullpen.api.v1alpha1 import JobQueueSpec
from bullpen_operator.desired import companions, deployments, naming
from bullpen_operator.desired.deployments import Workplace

OBJECT = {"metadata": {"name": "emails", "namespace": "shop", "uid": "u-1"}}


def made(replicas=None, workplace=Workplace(), **spec):  # noqa: B008
    worker = {"image": "shop:1", "handlers": ["shop.jobs"]} | spec.pop("worker", {})
    whole = JobQueueSpec.model_validate({"worker": worker, "scaling": {"maxReplicas": 5}} | spec)
    return deployments.deployment(OBJECT, whole, whole.worker, workplace, replicas=replicas)


def container(**spec):
    return made(**spec)["spec"]["template"]["spec"]["containers"][0]


def test_policy_is_no_matter_of_the_template():
    """Workers take it from Redis: a changed retry, timeout of a job below the longest, or perWorker rolls nothing out."""
    assert made() == made(retry={"attempts": 9}, concurrency={"perWorker": 50}, jobs=[{"name": "a", "timeout": "1m"}])


def test_replicas_are_there_only_when_they_are_ours_to_set():
    assert "replicas" not in made()["spec"]
    assert made(replicas=0)["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("spec", "pod_seconds", "own"),
    [
        ({}, 630, "10m20s"),
        ({"timeout": "5s"}, 35, "25s"),
        ({"jobs": [{"name": "a", "timeout": "1h"}]}, 3630, "1h20s"),
        ({"worker": {"terminationGracePeriod": "10s"}}, 10, "5s"),
        ({"worker": {"terminationGracePeriod": "500ms"}}, 1, "500ms"),
    ],
)
def test_the_worker_gives_jobs_back_before_the_pod_is_killed(spec, pod_seconds, own):
    pod = made(**spec)["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == pod_seconds
    args = pod["containers"][0]["args"]
    assert args[args.index("--grace") + 1] == own


def test_the_users_variables_stand_beside_ours_and_go_before_them():
    env = container(worker={"env": [{"name": "A", "value": "1"}, {"name": "BULLPEN_WORKER_NAME", "value": "x"}]})["env"]
    assert {each["name"]: each.get("value") for each in env} == {
        "SERVICE_BINDING_ROOT": "/bindings",
        "BULLPEN_WORKER_NAME": "x",
        "A": "1",
    }


def test_no_password_stands_in_the_template():
    assert "PASSWORD" not in json.dumps(made()).upper()


def test_queue_handlers_and_processes_are_arguments():
    args = container(queueName="Mails", worker={"handlers": ["a", "b:c"], "processes": 3})["args"]
    assert args[:8] == ["--handlers", "a", "--handlers", "b:c", "--queue", "Mails", "--processes", "3"]


def test_all_that_is_made_belongs_to_the_jobqueue_and_is_found_by_its_labels():
    for obj in (
        made(),
        companions.service_account(OBJECT),
        companions.disruption_budget(OBJECT),
        companions.network_policy(OBJECT),
    ):
        assert naming.belongs_to(obj, OBJECT)
        assert obj["metadata"]["labels"]["bullpen.dev/jobqueue"] == "emails"
    labels = made()["spec"]["template"]["metadata"]["labels"]
    assert made()["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_selector_never_changes():
    """Kubernetes refuses a changed selector: every version to come has to find these pods."""
    assert naming.selector("emails") == {"app.kubernetes.io/component": "worker", "bullpen.dev/jobqueue": "emails"}


def test_an_account_of_the_users_own_is_taken():
    assert made(worker={"serviceAccountName": "mine"})["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
