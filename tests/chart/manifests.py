"""The chart as plain YAML, for whoever has no Helm: ``python -m tests.chart.manifests`` writes manifests/install.yaml anew."""

import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.chart.rendering import NAMESPACE, ROOT, Chart, Object
from tests.support.kubernetes import binaries

FILE = ROOT / "manifests" / "install.yaml"
HEAD = """\
# The operator as plain YAML, cluster-wide, in the namespace bullpen-system; made from the chart (`make manifests`).
# First the kinds, then this:
#
#     kubectl apply --server-side -f crd.yaml
#     kubectl apply --server-side -f install.yaml
#
# The image is one of yours, built from Dockerfile.operator: put its name in place of localhost/bullpen-operator.
"""
HELMS_OWN = ("helm.sh/chart", "app.kubernetes.io/managed-by")
"""Labels that speak of Helm."""


def text(chart: Chart) -> str:
    """Give the file as the chart of now would have it."""
    rendered = chart.objects({"crds": {"install": False}}, "--no-hooks")
    namespace: Object = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    return HEAD + "".join(f"---\n{_written(obj)}" for obj in [namespace, *_without_helm(rendered)])


def _without_helm(objects: Iterable[Object]) -> Iterable[Object]:
    for obj in objects:
        for label in HELMS_OWN:
            obj["metadata"]["labels"].pop(label)
        yield obj


def _written(obj: Object) -> str:
    return yaml.safe_dump(obj, sort_keys=False, width=140)


def main(file: Path = FILE) -> None:
    """Write the file."""
    file.write_text(text(Chart(binaries.ensure("helm")["helm"])))


if __name__ == "__main__":
    sys.exit(main())
