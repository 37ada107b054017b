"""The pages that speak of the chart say what it does."""

import json
import re

import pytest
import yaml

from tests.chart.rendering import NAMESPACE, ROOT, Chart
from tests.docs import pages

HOW_TO = ROOT / "docs" / "how-to"
SECURITY = (HOW_TO / "security.md").read_text()
READY = {"type": "Ready", "status": "True", "message": "As declared."}
NOT_READY = {"type": "Ready", "status": "False", "message": "No default connection."}
NOT_ASKED = {"type": "Ready", "status": "Unknown", "message": "Redis was not asked yet."}
STALLED = {"type": "Stalled", "status": "True", "message": "No default connection."}
PAUSED = {"type": "Paused", "status": "True", "message": "Paused by the spec."}


def rules_on_the_page() -> set[tuple[str, frozenset[str], frozenset[str]]]:
    rows = re.findall(r"^\| ([a-z-]+) \| ([^|]+) \| ([a-z, ]+) \| [^|]+ \|$", SECURITY, flags=re.MULTILINE)
    return {
        (role, frozenset(what.split(", ")), frozenset(verbs.split(", ")))
        for role, what, verbs in rows
        if role != "role"
    }


def rules_of(chart: Chart, **values: object) -> set[tuple[str, frozenset[str], frozenset[str]]]:
    found = set()
    objects = chart.objects({"networkPolicy": {"enabled": True}, **values})
    for role in objects.of("Role", "ClusterRole"):
        name = role["metadata"]["name"].removeprefix("bullpen-")
        if role in objects.hooks or name in {"view", "edit"}:
            continue
        for rule in role["rules"]:
            (group,) = rule["apiGroups"]
            what = {f"{resource}.{group}" if group else resource for resource in rule["resources"]}
            found.add((name, frozenset(what), frozenset(rule["verbs"])))
    return found


def test_every_right_of_the_operator_is_explained(chart):
    granted = rules_of(chart) | rules_of(chart, namespaces=[NAMESPACE, "shop"])
    assert len(granted) > 15
    assert granted == rules_on_the_page()


def test_values_on_the_page_are_values(chart):
    (block,) = [one for one in pages.blocks(HOW_TO / "install.md") if "priorityClassName" in one.text]
    values = yaml.safe_load(block.text.replace("sha256:…", "sha256:" + "0" * 64))
    assert chart.objects(values).of("PrometheusRule")


@pytest.mark.parametrize("kind", ["Application", "HelmRelease"])
def test_values_for_argo_cd_and_flux_are_values(chart, kind):
    (found,) = [
        obj
        for block in pages.blocks(HOW_TO / "gitops.md")
        if block.language == "yaml"
        for obj in yaml.safe_load_all(block.text)
        if obj.get("kind") == kind
    ]
    values = found["spec"]["source"]["helm"]["valuesObject"] if kind == "Application" else found["spec"]["values"]
    assert chart.objects(values).one("StatefulSet", "bullpen-redis")


@pytest.mark.parametrize(
    "command",
    [
        step.command
        for page in (ROOT / "README.md", HOW_TO / "install.md", HOW_TO / "upgrade.md")
        for block in pages.blocks(page)
        if block.language == "console"
        for step in pages.steps(block)
        if step.command.startswith(("helm install", "helm upgrade"))
    ],
)
def test_helm_commands_of_the_pages_set_what_there_is(chart, command):
    given = re.findall(r"--set '?([^\s']+)", command)
    name = re.findall(r"--namespace (\S+)", command)[0]
    assert chart.objects({}, *(part for one in given for part in ("--set", one)), namespace=name)


def health(kind: str) -> str:
    """Give Argo CD's script for a kind, as the page has it."""
    for block in pages.blocks(HOW_TO / "gitops.md"):
        if f"bullpen.dev_{kind}" in block.text:
            return str(yaml.safe_load(block.text)["data"][f"resource.customizations.health.bullpen.dev_{kind}"])
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("JobQueue", None, "Progressing"),
        ("JobQueue", {"observedGeneration": 1, "conditions": [READY]}, "Progressing"),
        ("JobQueue", {"observedGeneration": 2, "conditions": [READY]}, "Healthy"),
        ("JobQueue", {"observedGeneration": 2, "conditions": [NOT_READY]}, "Progressing"),
        ("JobQueue", {"observedGeneration": 2, "conditions": [NOT_READY, STALLED]}, "Degraded"),
        ("JobQueue", {"observedGeneration": 2, "conditions": [READY, PAUSED]}, "Suspended"),
        ("ClusterRedisConnection", None, "Progressing"),
        ("ClusterRedisConnection", {"observedGeneration": 1, "conditions": [READY]}, "Progressing"),
        ("ClusterRedisConnection", {"observedGeneration": 2, "conditions": [READY]}, "Healthy"),
        ("ClusterRedisConnection", {"observedGeneration": 2, "conditions": [NOT_READY]}, "Degraded"),
        ("ClusterRedisConnection", {"observedGeneration": 2, "conditions": [NOT_ASKED]}, "Progressing"),
    ],
)
def test_argo_cd_is_told_how_a_queue_is(bullpen_redis, kind, status, expected):
    """Argo CD runs Lua 5.1, and so does Redis."""
    import redis

    obj = {"metadata": {"generation": 2}, **({"status": status} if status is not None else {})}
    script = f"local obj = cjson.decode(ARGV[1])\nlocal function health()\n{health(kind)}\nend\nreturn cjson.encode(health())"
    with redis.Redis.from_url(bullpen_redis) as client:
        found = json.loads(client.eval(script, 0, json.dumps(obj)))
    assert found["status"] == expected
    assert found["message"]
