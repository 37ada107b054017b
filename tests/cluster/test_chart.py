"""The chart against a real API server: what it renders is valid there, and installs, upgrades and goes as it should."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart import schemas
from tests.chart.rendering import CHART, MATRIX, NAMESPACE, Chart, Object, Objects, Values
from tests.docs import pages
from tests.support import requirements
from tests.support.kubernetes import apiserver, binaries
from tests.support.kubernetes.api import Api, ApiError
from tests.support.kubernetes.apiserver import ApiServer
from tests.support.waiting import eventually_sync

OTHERS_KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""The Prometheus operator's, whose CRDs are not here."""
INSTALL = CHART.parents[1] / "docs" / "how-to" / "install.md"
JOBQUEUES = "/apis/bullpen.dev/v1alpha1/jobqueues"


@pytest.fixture(scope="session")
def tools(api_programs: None) -> dict[str, Path]:
    """Build helm and kubeconform, where they are not there."""
    try:
        return binaries.ensure("helm", "kubeconform")
    except binaries.Missing as error:
        requirements.missing("cluster", str(error))


@pytest.fixture(scope="module")
def server(api_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of this module's own: it installs what is the cluster's."""
    with apiserver.start(tmp_path_factory.mktemp("chart"), controllers=True) as running:
        running.api().namespace(NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
        running.api().apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pods", "namespace": NAMESPACE}}
        )
        yield running


@pytest.fixture(scope="module")
def cluster(server: ApiServer) -> Api:
    """That server, as its administrator."""
    return server.api()


@pytest.fixture(scope="module")
def kinds(cluster: Api) -> None:
    """Bullpen's CRDs are served, as if by another release."""
    cluster.install((CHART / "files" / "crds" / "crd.yaml").read_text())


@pytest.fixture
def helm(own_api_server: ApiServer, tools: dict[str, Path]) -> Callable[..., str]:
    """Helm on a cluster of the test's own; gives what it printed, raises with what it complained of."""

    def run(*arguments: object, values: Values | None = None) -> str:
        command = [tools["helm"], "--kubeconfig", own_api_server.admin.kubeconfig, "--namespace", NAMESPACE, *arguments]
        if values is not None:
            command += ["--values", "-"]
        done = subprocess.run(
            [str(part) for part in command],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(params=MATRIX.values(), ids=MATRIX.keys())
def objects(request: pytest.FixtureRequest, chart: Chart) -> Objects:
    """What the chart makes of each of some values."""
    return chart.objects(request.param)


# --- what is rendered


@pytest.fixture(scope="module")
def schema_folder(cluster: Api, kinds: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Schemas of all kinds of the server."""
    folder = tmp_path_factory.mktemp("schemas")
    schemas.write(cluster, folder)
    return folder


def kubeconform(tools: dict[str, Path], folder: Path, text: str) -> str:
    """Give what kubeconform has against these objects."""
    command = [
        tools["kubeconform"],
        "-strict",
        "-schema-location",
        f"{folder}/{schemas.LOCATION}",
        "-skip",
        ",".join(OTHERS_KINDS),
    ]
    done = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_kubeconform_finds_nothing(tools, schema_folder, objects):
    assert kubeconform(tools, schema_folder, "\n---\n".join(map(json.dumps, objects))) == ""


def test_kubeconform_would_find_something(tools, schema_folder, chart):
    (deployment,) = chart.objects().of("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Never"
    assert "additional properties 'imagePullPolcy' not allowed" in kubeconform(
        tools, schema_folder, json.dumps(deployment)
    )


def test_the_server_would_take_every_object(cluster, kinds, objects):
    for namespace in {obj["metadata"].get("namespace", NAMESPACE) for obj in objects} - {NAMESPACE}:
        cluster.namespace(namespace)
    for obj in objects:
        if obj["kind"] not in OTHERS_KINDS:
            dry_run(cluster, obj)


def dry_run(api: Api, obj: Object) -> Object:
    """Let the server say what it would make of an object; what it does not know is refused."""
    metadata = obj["metadata"]
    path = api.path(obj["apiVersion"], obj["kind"], metadata.get("namespace", ""), metadata["name"])
    return api.request(
        "PATCH",
        path,
        obj,
        content_type="application/apply-patch+yaml",
        fieldManager="test",
        force="true",
        dryRun="All",
        fieldValidation="Strict",
    )


def test_restricted_pod_security_takes_every_pod(cluster, objects):
    """`NAMESPACE` enforces it; a pod that would break it shows that it does."""

    def create(owner: str, pod: Object) -> Object:
        body = {"metadata": {"name": "tried"}, "spec": {**pod, "serviceAccountName": "pods"}}
        names = {volume["name"] for volume in pod["volumes"]}
        claimed = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} - names
        body["spec"]["volumes"] = [*pod["volumes"], *({"name": name, "emptyDir": {}} for name in claimed)]
        body["spec"].pop("priorityClassName", None)
        body["spec"]["restartPolicy"] = pod.get("restartPolicy", "Always")
        return cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body, dryRun="All")

    for owner, pod in objects.pods():
        create(owner, pod)
    del pod["containers"][0]["securityContext"]["capabilities"]
    with pytest.raises(ApiError, match="violates PodSecurity"):
        create(owner, pod)


def test_viewers_view_and_editors_edit(server, cluster, chart, kinds):
    """By the cluster's own roles, which the controller-manager puts together."""
    for role in chart.objects().of("ClusterRole"):
        if role["metadata"]["name"] in {"bullpen-view", "bullpen-edit"}:
            cluster.apply(role)
    namespace = cluster.namespace("people")
    queue = {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": "emails", "namespace": namespace},
        "spec": {},
    }
    eventually_sync(
        lambda: (
            "jobqueues" in json.dumps(cluster.get("rbac.authorization.k8s.io/v1", "ClusterRole", "", "edit")["rules"])
        ),
        timeout=30,
        every=0.1,
    )
    for user, role in (("viewer", "view"), ("editor", "edit")):
        cluster.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": user, "namespace": namespace},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
            }
        )
    editor, viewer = (server.api(server.login(user, "system:authenticated")) for user in ("editor", "viewer"))
    editor.create(queue)
    assert viewer.get("bullpen.dev/v1alpha1", "JobQueue", namespace, "emails")
    with pytest.raises(ApiError, match="403"):
        viewer.create({**queue, "metadata": {**queue["metadata"], "name": "other"}})
    with pytest.raises(ApiError, match="403"):
        viewer.delete("bullpen.dev/v1alpha1", "JobQueue", namespace, "emails")
    with pytest.raises(ApiError, match="403"):
        editor.request(
            "PATCH", f"{JOBQUEUES.replace('jobqueues', '')}namespaces/{namespace}/jobqueues/emails/status", {}
        )


# --- install, upgrade, uninstall


def older(folder: Path) -> Path:
    """The chart as an older version might have been: one kind has a column less."""
    copy = shutil.copytree(CHART, folder / "bullpen")
    file = copy / "files" / "crds" / "crd.yaml"
    documents = list(yaml.safe_load_all(file.read_text()))
    del documents[0]["spec"]["versions"][0]["additionalPrinterColumns"][-1]
    file.write_text(yaml.safe_dump_all(documents))
    return copy


def columns(api: Api) -> int:
    crd = api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "jobqueues.bullpen.dev")
    return len(crd["spec"]["versions"][0]["additionalPrinterColumns"])


def test_an_upgrade_brings_the_kinds_along_and_an_uninstall_leaves_them(own_api_server, helm, tmp_path):
    api = own_api_server.api()
    notes = helm("install", "bullpen", older(tmp_path), "--create-namespace", "--no-hooks", values={})
    assert "rollout status deployment/bullpen" in notes
    assert "kind: JobQueue" in notes
    before = columns(api)
    queue = {
        "apiVersion": "bullpen.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": "emails", "namespace": NAMESPACE},
        "spec": {},
    }
    api.create(queue)
    uid = api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")["metadata"]["uid"]

    helm("upgrade", "bullpen", CHART, "--no-hooks", values={"replicas": 1})
    assert columns(api) == before + 1
    deployment = api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")
    assert (deployment["metadata"]["uid"], deployment["spec"]["replicas"]) == (uid, 1)
    assert api.get("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "emails")

    helm("uninstall", "bullpen", "--no-hooks")
    assert columns(api) == before + 1
    assert api.get("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "emails")
    assert api.list("apps/v1", "Deployment", NAMESPACE) == []
    assert [
        role["metadata"]["name"]
        for role in api.list("rbac.authorization.k8s.io/v1", "ClusterRole")
        if "bullpen" in role["metadata"]["name"]
    ] == []

    helm("install", "bullpen", CHART, "--no-hooks", values={})
    assert api.get("bullpen.dev/v1alpha1", "JobQueue", NAMESPACE, "emails")


def test_an_upgrade_keeps_the_values_that_were_given_and_can_be_taken_back(own_api_server, helm, tmp_path):
    """By the words of docs/how-to/upgrade.md: what an older chart did not know comes with its default."""
    api = own_api_server.api()
    old = older(tmp_path)
    for name in ("values.yaml", "values.schema.json"):
        file = old / name
        known = yaml.safe_load(file.read_text())
        known.get("properties", known).pop("hooks")
        file.write_text(json.dumps(known))
    shutil.rmtree(old / "templates" / "hooks")
    helm("install", "bullpen", old, "--create-namespace", "--no-hooks", values={"replicas": 1})
    before = columns(api)

    helm("upgrade", "bullpen", CHART, "--reset-then-reuse-values", "--no-hooks")
    assert api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")["spec"]["replicas"] == 1
    assert "activeDeadlineSeconds: 180" in helm("get", "hooks", "bullpen")
    assert columns(api) == before + 1

    helm("rollback", "bullpen", "--no-hooks")
    assert columns(api) == before


def test_kinds_that_came_by_kubectl_are_left_to_it_or_handed_over(own_api_server, helm):
    own_api_server.kubectl("apply", "--server-side", "--filename", str(CHART.parents[1] / "manifests" / "crd.yaml"))
    with pytest.raises(AssertionError, match="cannot be imported into the current release"):
        helm("install", "bullpen", CHART, "--create-namespace", "--no-hooks")
    helm("install", "bullpen", CHART, "--create-namespace", "--no-hooks", "--set", "crds.install=false")
    helm("upgrade", "bullpen", CHART, "--reset-then-reuse-values", "--no-hooks", "--set", "crds.install=true", "--take-ownership")  # fmt: skip
    crd = own_api_server.api().get("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "jobqueues.bullpen.dev")
    assert crd["metadata"]["annotations"]["meta.helm.sh/release-name"] == "bullpen"


def test_a_second_release_of_another_class_stands_beside_the_first(own_api_server, helm):
    (command,) = re.findall(r"^\$ helm (install teams .*)$", INSTALL.read_text(), flags=re.MULTILINE)
    helm("install", "bullpen", CHART, "--create-namespace", "--no-hooks")
    helm(*command.replace("charts/bullpen", str(CHART)).split(), "--no-hooks")
    api = own_api_server.api()
    names = {obj["metadata"]["name"] for obj in api.list("apps/v1", "Deployment", NAMESPACE)}
    assert names == {"bullpen", "teams-bullpen"}
    selectors = [obj["spec"]["selector"] for obj in api.list("apps/v1", "Deployment", NAMESPACE)]
    assert selectors[0] != selectors[1]
    helm("uninstall", "teams", "--no-hooks")
    assert api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")
    assert columns(api)


def test_the_plain_yaml_installs_and_applied_again_changes_nothing(own_api_server, tmp_path):
    """By kustomize, as docs/how-to/install.md has it."""
    api = own_api_server.api()
    (block,) = [one for one in pages.blocks(INSTALL) if "kind: Kustomization" in one.text]
    (command,) = re.findall(r"^\$ kubectl (apply .*manifests-of-mine)$", INSTALL.read_text(), flags=re.MULTILINE)
    folder = shutil.copytree(CHART.parents[1] / "manifests", tmp_path / "manifests-of-mine")
    (folder / "kustomization.yaml").write_text(block.text)
    words = command.replace("manifests-of-mine", str(folder)).split()

    def versions() -> dict[str, str]:
        own_api_server.kubectl(*words)
        listed = own_api_server.kubectl("get", "--kustomize", str(folder), "--output", "json")
        return {
            f"{obj['kind']}/{obj['metadata']['name']}": f"{obj['metadata']['uid']} {obj['metadata'].get('generation')}"
            for obj in json.loads(listed)["items"]
        }

    first = versions()
    deployment = api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/bullpen-operator:0.1.0"
    assert versions() == first
    assert (
        api.get("apps/v1", "Deployment", NAMESPACE, "bullpen")["metadata"]["resourceVersion"]
        == (deployment["metadata"]["resourceVersion"])
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"redis": {"enabled": True}}, ['ClusterRedisConnection "bullpen", the default']),
        ({"redis": {"enabled": True, "persistence": {"enabled": False}}}, ["all jobs are lost"]),
        ({"redis": {"enabled": True, "maxmemory": "800mb"}}, ["redis.maxmemory is 78 % of the memory limit"]),
        (
            {"namespaces": ["shop"], "className": "teams"},
            ["JobQueues in shop (className: teams)", "kind: RedisConnection", "className: teams"],
        ),
    ],
)
def test_notes_say_what_to_type_next(server, tools, values, words):
    command = [tools["helm"], "--kubeconfig", server.admin.kubeconfig, "--namespace", NAMESPACE, "install", "bullpen"]
    command += [CHART, "--dry-run=server", "--values", "-", "--set", "crds.install=false,rbac.aggregate=false"]
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout.split("NOTES:")[1]
    assert [word for word in words if word not in notes] == []
