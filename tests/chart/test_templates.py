"""What the chart renders, over a matrix of values: safe pods, roles as small as they are meant, names that fit together."""

import json
import re
import subprocess

import pytest
import yaml

from bullpen import _version
from bullpen.api.v1alpha1 import ClusterRedisConnection, RedisConnection
from bullpen_operator.settings import Settings
from tests.chart.rendering import CHART, EVERYTHING, MATRIX, NAMESPACE, Object, Objects, Refused

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

MONITORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
WRITES_SECRETS = {"get", "create", "patch", "delete"}
"""All that anybody of ours may do with Secrets: never list or watch them."""


@pytest.fixture(scope="module", params=MATRIX.values(), ids=MATRIX.keys())
def values(request):
    return request.param


@pytest.fixture(scope="module")
def objects(chart, values) -> Objects:
    return chart.objects(values)


def test_helm_lints_it_strictly(chart, values, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    command = [chart.helm, "lint", "--strict", CHART, "--values", file, "--kube-version", "1.34.4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_name_comes_twice(objects):
    places = [(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]) for obj in objects]
    assert sorted(places) == sorted(set(places))


def test_everything_says_what_it_is_part_of(objects, values):
    whole = values.get("commonLabels", {}).get("app.kubernetes.io/part-of", "bullpen")
    for obj in objects:
        labels = obj["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == whole
        monitored = obj["kind"] in MONITORS or obj["metadata"]["name"] == "bullpen-dashboards"
        given = values["monitoring"]["rules"].get("labels", {}) if monitored else {}
        assert labels["app.kubernetes.io/instance"] == given.get("app.kubernetes.io/instance", "bullpen")
        assert labels.items() >= given.items()
        assert labels["app.kubernetes.io/version"] == _version.__version__
        # That label's value `bullpen` is the operator's own mark, for what it makes and watches.
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_whatever_has_a_namespace_names_it(objects):
    cluster_scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for obj in objects:
        assert ("namespace" in obj["metadata"]) is (obj["kind"] not in cluster_scoped), obj["metadata"]["name"]


def test_every_pod_passes_restricted_pod_security(objects):
    assert objects.pods()
    for owner, pod in objects.pods():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, owner
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert security.get("runAsUser") != 0, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), owner
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, owner
            assert own["readOnlyRootFilesystem"] is True, owner
            assert own["capabilities"] == {"drop": ["ALL"]}, owner
            assert not any("hostPort" in port for port in container.get("ports", [])), owner
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, owner
            assert "memory" in container["resources"]["limits"], owner
        for volume in pod["volumes"]:
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret"}, owner


def test_only_who_asks_the_api_server_has_a_token(objects):
    for owner, pod in objects.pods():
        asks = not owner.startswith("StatefulSet/")
        assert pod["automountServiceAccountToken"] is asks, owner
        assert ("serviceAccountName" in pod) is asks, owner
        assert pod["enableServiceLinks"] is False, owner
    for account in objects.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_no_role_grants_everything_of_anything(objects):
    for role in objects.of("Role", "ClusterRole"):
        for rule in role["rules"]:
            text = json.dumps(rule)
            assert "*" not in text, role["metadata"]["name"]
            assert "nonResourceURLs" not in rule
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
            assert not any(resource.startswith("pods/") for resource in rule["resources"])
            assert not {"roles", "clusterroles", "rolebindings", "clusterrolebindings"} & set(rule["resources"])


def test_nobody_lists_or_watches_secrets(objects):
    for role in objects.of("Role", "ClusterRole"):
        for rule in role["rules"]:
            if "secrets" in rule["resources"]:
                assert set(rule["verbs"]) <= WRITES_SECRETS, role["metadata"]["name"]


def test_every_binding_binds_a_role_that_is_there_to_an_account_that_is_there(objects, values):
    accounts = {(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in objects.of("ServiceAccount")}
    if not values.get("serviceAccount", {}).get("create", True):
        accounts.add((NAMESPACE, "given"))
    bound = set()
    for binding in objects.of("RoleBinding", "ClusterRoleBinding"):
        role, namespace = binding["roleRef"], binding["metadata"].get("namespace")
        (found,) = [
            obj
            for obj in objects.of(role["kind"])
            if obj["metadata"]["name"] == role["name"] and obj["metadata"].get("namespace") == namespace
        ]
        bound.add(id(found))
        (subject,) = binding["subjects"]
        assert (subject["namespace"], subject["name"]) in accounts
        assert found["metadata"].get("annotations") == binding["metadata"].get("annotations")
    unbound = [obj["metadata"]["name"] for obj in objects.of("Role", "ClusterRole") if id(obj) not in bound]
    assert set(unbound) <= {"bullpen-view", "bullpen-edit"}


@pytest.mark.parametrize("values", [values for values in MATRIX.values() if "namespaces" in values])
def test_a_namespaced_install_has_no_rights_beyond_its_namespaces(chart, values):
    objects = chart.objects(values)
    assert objects.of("ClusterRoleBinding") == []
    assert {obj["metadata"]["name"] for obj in objects.of("ClusterRole")} <= {"bullpen-view", "bullpen-edit"}
    reaches = {obj["metadata"]["namespace"] for obj in objects.of("RoleBinding")}
    assert reaches <= {*values["namespaces"], NAMESPACE}
    assert "clusterredisconnections" not in json.dumps(objects.of("Role"))


def test_a_tenant_can_install_it_without_rights_on_the_cluster(chart):
    objects = chart.objects(MATRIX["a tenant without rights on the cluster"])
    assert not objects.of("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")


def test_viewers_cannot_create_and_nobody_less_than_edit_can(chart):
    objects = chart.objects()
    view, edit = objects.one("ClusterRole", "bullpen-view"), objects.one("ClusterRole", "bullpen-edit")
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    def goes_to(role):
        return {label.removeprefix(prefix) for label in role["metadata"]["labels"] if label.startswith(prefix)}

    assert goes_to(view) == {"view", "edit", "admin"}
    assert goes_to(edit) == {"edit", "admin"}
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert not any("status" in resource for rule in edit["rules"] for resource in rule["resources"])
    # Whose namespaces may use a Redis, and by which Secret, is the platform's business.
    assert "clusterredisconnections" not in json.dumps(edit["rules"])


def test_the_operators_settings_are_the_operators(objects, values):
    deployment = objects.one("Deployment", "bullpen")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value", "a-name") for one in container["env"]}
    settings = Settings.from_environment(environment)
    known = {f"BULLPEN_OPERATOR_{name.upper()}" for name in Settings.__dataclass_fields__} | {
        "POD_NAME",
        "POD_NAMESPACE",
    }
    assert environment.keys() <= known
    assert settings.namespaces == tuple(values.get("namespaces", ()))
    assert settings.class_name == values.get("className", "")
    assert settings.network_policies is values.get("networkPolicy", {}).get("enabled", False)
    assert settings.probes.endswith(":8080")
    if role := [obj for obj in objects.of("Role") if obj["metadata"]["name"] == "bullpen-lease"]:
        (named,) = [rule["resourceNames"] for rule in role[0]["rules"] if "resourceNames" in rule]
        assert named == [settings.lease]


def test_selectors_select_what_they_are_meant_to(objects):
    pods = {
        obj["metadata"]["name"]: obj["spec"]["template"]["metadata"]["labels"]
        for obj in objects.of("Deployment", "StatefulSet", "Job")
    }
    for obj in objects.of("Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "Service"):
        spec = obj["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        labels = selector.get("matchLabels", selector)
        chosen = {name for name, own in pods.items() if labels.items() <= own.items()}
        if obj in objects.hooks:
            assert chosen == {job["metadata"]["name"] for job in objects.hooks.of("Job")}
            continue
        assert chosen == {"bullpen-redis" if "redis" in obj["metadata"]["name"] else "bullpen"}, obj["metadata"]["name"]
    for monitor in objects.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [obj for obj in objects.of("Service") if labels.items() <= obj["metadata"]["labels"].items()]
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == {
            port["name"] for port in service["spec"]["ports"]
        }
        assert all(endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"])


def test_labels_of_the_pods_go_over_those_of_everything(chart):
    values = {"commonLabels": {"team": "platform", "tier": "1"}, "podLabels": {"team": "queues"}}
    labels = chart.objects(values).one("Deployment", "bullpen")["spec"]["template"]["metadata"]["labels"]
    assert (labels["team"], labels["tier"]) == ("queues", "1")


def test_an_upgrade_of_the_chart_alone_restarts_nothing(objects):
    for obj in objects.of("Deployment", "StatefulSet"):
        labels = obj["spec"]["template"]["metadata"]["labels"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


def test_another_configuration_restarts_redis(chart):
    def annotations(**redis):
        found = chart.objects({"redis": {"enabled": True, **redis}}).one("StatefulSet", "bullpen-redis")
        return found["spec"]["template"]["metadata"]["annotations"]

    assert annotations() == annotations(persistence={"size": "9Gi"})
    assert annotations() != annotations(maxmemory="700mb")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"localhost/bullpen-operator:{_version.__version__}"),
        ({"tag": "edge"}, "localhost/bullpen-operator:edge"),
        ({"registry": "registry.example.com:5000", "repository": "a/b"}, f"registry.example.com:5000/a/b:{_version.__version__}"),
        ({"tag": "edge", "digest": "sha256:" + "0" * 64}, "localhost/bullpen-operator@sha256:" + "0" * 64),
    ],
)  # fmt: skip
def test_an_image_goes_by_tag_or_digest(chart, image, expected):
    objects = chart.objects({"image": image, "redis": {"enabled": True}})
    for owner, pod in objects.pods():
        if not owner.startswith("StatefulSet/"):
            assert [container["image"] for container in pod["containers"]] == [expected]


def test_crds_are_those_of_the_models_and_outlive_the_release(chart):
    generated = {
        obj["metadata"]["name"]: obj for obj in yaml.safe_load_all((CHART / "files/crds/crd.yaml").read_text())
    }
    rendered = chart.objects().of("CustomResourceDefinition")
    assert {crd["metadata"]["name"]: crd["spec"] for crd in rendered} == {
        name: crd["spec"] for name, crd in generated.items()
    }
    assert all(crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for crd in rendered)
    loose = chart.objects({"crds": {"keep": False}}).of("CustomResourceDefinition")
    assert len(loose) == len(rendered)
    assert all("helm.sh/resource-policy" not in (crd["metadata"].get("annotations") or {}) for crd in loose)
    assert not chart.objects({"crds": {"install": False}}).of("CustomResourceDefinition")


@pytest.mark.parametrize(
    ("values", "model"),
    [
        ({"redis": {"enabled": True}}, ClusterRedisConnection),
        (MATRIX["Redis as one's own"], ClusterRedisConnection),
        ({"redis": {"enabled": True}, "namespaces": [NAMESPACE]}, RedisConnection),
    ],
)
def test_the_redis_is_offered_by_a_connection_that_is_valid(chart, values, model):
    objects = chart.objects(values)
    job = objects.one("Job", "bullpen-redis-connection")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (text,) = [one["value"] for one in container["env"] if one["name"] == "BULLPEN_OBJECT"]
    connection = model.model_validate(json.loads(text))
    service = objects.one("Service", "bullpen-redis")
    assert connection.spec.endpoints == (f"redis://bullpen-redis.{service['metadata']['namespace']}.svc:6379/0",)
    secret = objects.one("StatefulSet", "bullpen-redis")["spec"]["template"]["spec"]["volumes"][1]["secret"][
        "secretName"
    ]
    assert connection.spec.auth.password.secret_key_ref.name == secret
    assert connection.spec.auth.username.secret_key_ref.name == secret
    default = json.loads(text)["metadata"].get("annotations") == {"bullpen.dev/default": "true"}
    assert default is values["redis"].get("connection", {}).get("default", True)


def test_no_password_is_rendered_or_looked_up(chart):
    assert not chart.objects(EVERYTHING).of("Secret")
    assert chart.text(EVERYTHING) == chart.text(EVERYTHING), "two renderings differ: Argo CD would never be in sync"
    for template in (CHART / "templates").rglob("*"):
        if template.is_file():
            text = re.sub(r"\{\{-? */\*.*?\*/ *-?\}\}", "", template.read_text(), flags=re.DOTALL)
            assert not re.search(r"\{\{[^}]*\b(lookup|rand\w+|genPrivateKey|now|uuidv4)\b", text), template


def test_hooks_run_what_there_is(chart):
    from bullpen_operator import hooks

    for values in (EVERYTHING, {**EVERYTHING, "namespaces": [NAMESPACE, "shop"], "className": "teams"}):
        jobs = chart.objects(values).of("Job")
        assert {job["metadata"]["name"] for job in jobs} == {
            "bullpen-redis-password",
            "bullpen-redis-connection",
            "bullpen-release",
        }
        for job in jobs:
            (container,) = job["spec"]["template"]["spec"]["containers"]
            assert container["command"] == ["python", "-m", hooks.__name__]
            hooks._parser().parse_args(container["args"])


def test_a_hook_stands_on_its_own(objects, values):
    """Its account and its rights come with it, before it, and go with it."""
    for obj in objects.hooks:
        annotations = obj["metadata"]["annotations"]
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
        assert int(annotations["helm.sh/hook-weight"]) == (0 if obj["kind"] == "Job" else -10)
    for job in objects.hooks.of("Job"):
        account = job["spec"]["template"]["spec"]["serviceAccountName"]
        assert objects.hooks.one("ServiceAccount", account)
        if values.get("networkPolicy", {}).get("enabled"):  # a policy of the release's would come too late
            policy = objects.hooks.one("NetworkPolicy", job["metadata"]["name"])
            assert policy["metadata"]["annotations"]["helm.sh/hook"] == job["metadata"]["annotations"]["helm.sh/hook"]
            ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
            assert ports == {53, 443, 6443}
        assert job["spec"]["activeDeadlineSeconds"] > 0


def test_policies_let_out_to_the_ports_that_are_named(chart):
    named = {"enabled": True, "dnsPorts": [53, 5353], "apiServerPorts": [8443], "redisPorts": [6380]}
    objects = chart.objects({"networkPolicy": named})
    names = {(port, protocol) for port in (53, 5353) for protocol in ("TCP", "UDP")}

    def let_out(policy: Object) -> set[tuple[int, str]]:
        return {(each["port"], each["protocol"]) for rule in policy["spec"]["egress"] for each in rule["ports"]}

    assert let_out(objects.one("NetworkPolicy", "bullpen")) == {*names, (8443, "TCP"), (6380, "TCP")}
    hooks = objects.hooks.of("NetworkPolicy")
    assert hooks
    assert all(let_out(policy) == {*names, (8443, "TCP")} for policy in hooks)


@pytest.mark.parametrize(
    ("values", "place", "message"),
    [
        ({"replicas": "two"}, "/replicas", "got string, want integer"),
        ({"replicas": 9}, "/replicas", "maximum: got 9, want 5"),
        ({"image": {"tga": "1.0"}}, "/image", "additional properties 'tga' not allowed"),
        ({"image": {"digest": "1.0"}}, "/image/digest", "does not match pattern"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0", "got string, want object"),
        ({"namespaces": "shop"}, "/namespaces", "got string, want array"),
        ({"namespaces": ["Shop"]}, "/namespaces/0", "does not match pattern"),
        ({"className": "a b"}, "/className", "does not match pattern"),
        ({"commonLabels": {"app.kubernetes.io/name": "a"}}, "/commonLabels/app.kubernetes.io~1name", "false schema"),
        ({"podLabels": {"helm.sh/chart": "a"}}, "/podLabels/helm.sh~1chart", "false schema"),
        ({"log": {"level": "loud"}}, "/log/level", "value must be one of"),
        ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory", "does not match pattern"),
        ({"redis": {"maxmemory": "60%"}}, "/redis/maxmemory", "does not match pattern"),
        ({"redis": {"password": "secret"}}, "/redis", "additional properties 'password' not allowed"),
        ({"redis": {"connection": {"users": "None"}}}, "/redis/connection/users", "value must be one of"),
        ({"monitoring": {"rules": {"runbookUrl": "here"}}}, "/monitoring/rules/runbookUrl", "does not match pattern"),
        ({"networkPolicy": {"redisPorts": ["redis"]}}, "/networkPolicy/redisPorts/0", "got string, want integer"),
        ({"networkPolicy": {"dnsPorts": []}}, "/networkPolicy/dnsPorts", "minItems: got 0, want 1"),
        ({"prometheus": {}}, "", "additional properties 'prometheus' not allowed"),
    ],
)
def test_wrong_values_are_refused_by_their_name(chart, values, place, message):
    with pytest.raises(Refused) as refused:
        chart.text(values)
    assert f"at '{place}'" in str(refused.value)
    assert message in str(refused.value)


def test_a_redis_that_could_not_be_offered_is_refused(chart):
    with pytest.raises(Refused, match="add that namespace to `namespaces`"):
        chart.text({"namespaces": ["shop"], "redis": {"enabled": True}})


@pytest.mark.parametrize("limit", ["1Gi", "1G", 1073741824, "4096Mi", "4G"])
def test_a_redis_that_would_be_killed_when_it_fills_is_refused(chart, limit):
    with pytest.raises(Refused, match="maxmemory is 4gb and"):
        chart.text({"redis": {"enabled": True, "maxmemory": "4gb", "resources": {"limits": {"memory": limit}}}})


@pytest.mark.parametrize("limit", ["4097Mi", "5Gi", "4.5Gi", 4500000000, "1Ti", None])
def test_a_redis_with_room_or_without_a_limit_is_taken(chart, limit):
    limits = {"memory": limit}
    assert chart.text({"redis": {"enabled": True, "maxmemory": "4gb", "resources": {"limits": limits}}})


def scalars(tree):
    """Give every value in an object."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from scalars(value)
    else:
        yield tree


@pytest.mark.parametrize(
    "values",
    [
        {**EVERYTHING, "fullnameOverride": "y", "nameOverride": "5001"},
        {**EVERYTHING, "fullnameOverride": "n", "namespaces": ["5002", "5003"], "className": "5004"},
        {"fullnameOverride": "n", "serviceAccount": {"create": False, "name": "5005"}, "priorityClassName": "5006"},
    ],
)
def test_names_are_text_whatever_yaml_takes_them_for(chart, values):
    objects = chart.objects({**values, "crds": {"install": False}}, name="5001", namespace="5002")
    assert [value for obj in objects for value in scalars(obj) if value in range(5001, 5007)] == []
    assert {type(obj["metadata"]["name"]) for obj in objects} == {str}
    assert objects.of("Deployment")[0]["metadata"]["name"] in {"y", "n"}


@pytest.mark.parametrize("name", ["5001", "shop.queues", "a" * 38 + "--b"])
def test_a_release_that_no_service_could_be_named_after_is_refused(chart, name):
    with pytest.raises(Refused, match="set fullnameOverride"):
        chart.text(name=name)
    assert chart.objects({"fullnameOverride": "queues"}, name=name).one("Service", "queues-metrics")


def test_the_longest_name_of_a_release_leaves_room_for_what_is_put_behind_it(chart):
    for obj in chart.objects(EVERYTHING, name="a" * 53):
        assert len(obj["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in obj["metadata"]["labels"].values())


def leaves(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def test_every_value_is_described_and_in_the_schema():
    lines = (CHART / "values.yaml").read_text().splitlines()
    for path in leaves(VALUES):
        schema = SCHEMA
        for key in path:
            schema = schema["properties"][key] if "properties" in schema else {}
            if "$ref" in schema:
                schema = SCHEMA["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    documented = 0
    for number, line in enumerate(lines):
        name = re.match(r"^( *)([A-Za-z]+):", line)
        if name and not re.match(r"^( *)([A-Za-z]+):$", line):
            above = lines[number - 1].strip()
            grouped = {"requests", "limits", "seccompProfile", "runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup"}
            if name[2] not in grouped | {"fsGroupChangePolicy"}:
                assert above.startswith("#"), f"values.yaml:{number + 1}: {name[2]} is not described"
                documented += 1
    assert documented > 60


def test_the_schema_knows_no_value_that_is_not_there():
    def known(schema, tree, path=""):
        for name, inner in schema.get("properties", {}).items():
            if name != "global":
                assert name in tree, f"{path}{name} is in the schema only"
                if "properties" in inner:
                    known(inner, tree[name], f"{path}{name}.")

    known(SCHEMA, VALUES)


def test_the_chart_has_the_distributions_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == _version.__version__
