"""The plain YAML is the chart's."""

import yaml

from tests.chart import manifests
from tests.chart.rendering import NAMESPACE


def test_the_plain_yaml_is_what_the_chart_says(chart):
    assert manifests.FILE.read_text() == manifests.text(chart), "run `make manifests`"


def test_the_plain_yaml_speaks_of_itself_alone():
    objects = list(yaml.safe_load_all(manifests.FILE.read_text()))
    assert objects[0]["kind"] == "Namespace"
    assert {obj["metadata"].get("namespace", NAMESPACE) for obj in objects} == {NAMESPACE}
    assert "helm" not in manifests.FILE.read_text().removeprefix(manifests.HEAD).lower()
