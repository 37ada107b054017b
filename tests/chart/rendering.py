"""Renders the chart by Helm and reads what comes out."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.kubernetes.binaries import VERSION

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "bullpen"
NAMESPACE = "bullpen-system"

Object = dict[str, Any]
Values = dict[str, Any]


class Strict(yaml.CSafeLoader):
    """Reads YAML as the strictest of those who do: a key that comes twice is no YAML. Helm lets it pass; Flux does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping. Raises `ConstructorError` for a key that comes twice."""
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Refused(Exception):
    """Helm did not render the chart; the text is what it says."""


@dataclass(frozen=True)
class Chart:
    """The chart, and the helm that renders it."""

    helm: Path

    def text(
        self, values: Values | None = None, *arguments: str, name: str = "bullpen", namespace: str = NAMESPACE
    ) -> str:
        """Render it. Raises `Refused` with Helm's message."""
        done = subprocess.run(
            [
                *(self.helm, "template", name, CHART, "--namespace", namespace, "--kube-version", VERSION),
                *("--values", "-", *arguments),
            ],
            input=json.dumps(values or {}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def objects(self, values: Values | None = None, *arguments: str, **options: str) -> "Objects":
        """Render it, and give the objects."""
        documents = yaml.load_all(self.text(values, *arguments, **options), Strict)
        return Objects([document for document in documents if document])


class Objects(list[Object]):
    """Rendered objects."""

    def of(self, *kinds: str) -> "Objects":
        """Give those of these kinds."""
        return Objects([obj for obj in self if obj["kind"] in kinds])

    def one(self, kind: str, name: str) -> Object:
        """Give the one object of this kind and name."""
        (found,) = [obj for obj in self if (obj["kind"], obj["metadata"]["name"]) == (kind, name)]
        return found

    @property
    def names(self) -> set[tuple[str, str]]:
        """Kind and name of each."""
        return {(obj["kind"], obj["metadata"]["name"]) for obj in self}

    @property
    def hooks(self) -> "Objects":
        """Give those that Helm treats as hooks."""
        return Objects([obj for obj in self if "helm.sh/hook" in (obj["metadata"].get("annotations") or {})])

    def pods(self) -> list[tuple[str, Object]]:
        """Give each pod template's spec, with whose it is."""
        return [
            (f"{obj['kind']}/{obj['metadata']['name']}", obj["spec"]["template"]["spec"])
            for obj in self.of("Deployment", "StatefulSet", "Job")
        ]


EVERYTHING: Values = {
    "redis": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "monitoring": {
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
OF_PROMETHEUS = {"app.kubernetes.io/instance": "prometheus", "release": "prometheus"}

MATRIX: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "one namespace": {**EVERYTHING, "namespaces": [NAMESPACE]},
    "two namespaces, a class": {"namespaces": ["shop", "crm"], "className": "teams", "replicas": 1},
    "a tenant without rights on the cluster": {
        "namespaces": ["shop"],
        "crds": {"install": False},
        "rbac": {"aggregate": False},
    },
    "roles and account by somebody else": {
        "rbac": {"create": False, "aggregate": False},
        "serviceAccount": {"create": False, "name": "given"},
    },
    "image by digest, pull secrets, placement": {
        "image": {"registry": "registry.example.com", "repository": "bullpen", "digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "workers": {"imagePullSecrets": ["registry"]},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"example.com/team": "platform"},
        "podLabels": {"team": "platform"},
        "commonLabels": {"team": "platform", "app.kubernetes.io/part-of": "platform"},
        "extraEnv": [{"name": "BULLPEN_OPERATOR_CONCURRENCY", "value": "16"}],
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": OF_PROMETHEUS},
            "podMonitor": {"enabled": True, "labels": OF_PROMETHEUS},
            "rules": {"enabled": True, "labels": OF_PROMETHEUS},
            "dashboards": {"enabled": True, "labels": {"grafana_dashboard": "1", **OF_PROMETHEUS}},
        },
        "clusterId": "blue",
    },
    "Redis as one's own": {
        "redis": {
            "enabled": True,
            "auth": {"existingSecret": "mine"},
            "persistence": {"storageClassName": "", "size": "20Gi"},
            "maxmemory": "4gb",
            "resources": {"limits": {"memory": "7Gi"}},
            "extraConfig": "slowlog-max-len 1000\nlatency-monitor-threshold 50",
            "connection": {
                "name": "shared",
                "default": False,
                "allowedNamespaces": {"matchLabels": {"bullpen.dev/redis": "shared"}},
                "users": "Shared",
                "prefix": "jobs-{namespace}",
                "maxConnections": 500,
            },
            "networkPolicy": {"extraFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        },
    },
    "Redis to try": {
        "redis": {"enabled": True, "persistence": {"enabled": False}, "networkPolicy": {"enabled": False}}
    },
    "names that YAML would take for something else": {
        "namespaces": [NAMESPACE, "2024"],
        "className": "1e3",
        "clusterId": "007",
        "priorityClassName": "on",
        "commonLabels": {"year": "2024"},
        "image": {"tag": "1.0"},
        "workers": {"imagePullSecrets": ["404"]},
        "redis": {
            "enabled": True,
            "auth": {"existingSecret": "123"},
            "priorityClassName": "off",
            "persistence": {"storageClassName": "7"},
            "connection": {"name": "99"},
        },
        "monitoring": {
            "serviceMonitor": {"enabled": True, "namespace": "2025"},
            "rules": {"enabled": True, "alertLabels": {"code": "1"}},
        },
    },
    "Redis without a connection": {"redis": {"enabled": True, "connection": {"create": False}}},
}
"""Values that between them reach every branch of the templates."""
