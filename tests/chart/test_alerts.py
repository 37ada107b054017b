"""Each alert fires where it should and only there, says what to do, and reads metrics that there are."""

import re
import subprocess

import pytest
import yaml

from bullpen_operator import metrics
from bullpen_worker.reports import metrics as worker_metrics
from tests.chart.rendering import CHART, ROOT
from tests.support import prometheus

RULES = CHART / "files" / "rules.yaml"
TESTS = ROOT / "tests" / "chart" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"

ALERTS = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}  # fmt: skip


def metric_names() -> set[str]:
    """Every metric of operator and workers, as their modules document them."""
    named = re.findall(r"^(\w+) +(?:gauge|counter|histogram) ", metrics.__doc__, flags=re.MULTILINE)
    named += re.findall(r"^(\w+) +(?:gauge|counter|histogram) ", worker_metrics.__doc__, flags=re.MULTILINE)
    return {f"bullpen_{name}" for name in named}


def metrics_in(expression: str) -> set[str]:
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bbullpen_\w+", expression)}


def promtool(*arguments, cwd=None):
    command = [prometheus.program("promtool"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_rules_are_rules():
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_alerts_fire_where_they_should_and_only_there():
    done = promtool("test", "rules", TESTS.name, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_tested_firing_and_not_firing(alert):
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert any(case.get("exp_alerts") for case in cases)
    assert any(not case.get("exp_alerts") for case in cases)


@pytest.mark.parametrize("alert", ALERTS)
@pytest.mark.parametrize("broken", ["vector(1) > 2", "vector(1)"], ids=["silent", "always"])
def test_a_broken_alert_is_noticed(alert, broken, tmp_path):
    """The tests of the rules are worth something: they fail for an alert that never fires, or always."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                rule["expr"] = broken
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = yaml.safe_load(TESTS.read_text())
    tests["rule_files"] = ["rules.yaml"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", "tests.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert alert in done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_reads_metrics_that_there_are(alert):
    used = metrics_in(ALERTS[alert]["expr"])
    assert used
    assert used <= metric_names()


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_where_to_read_on(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["for"]
    assert {"summary", "description", "runbook"} == rule["annotations"].keys()
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text()
    headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    assert page.startswith(f"# {alert}\n")
    assert headings == ["What it means", "Impact", "What to look at", "What to do"]
    assert "kubectl " in page


def test_the_reference_has_every_metric_of_the_operator():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    on_page = set(
        re.findall(r"^\| `(bullpen_\w+)` \| (gauge|counter|histogram) \| ([a-z, ]*) *\|", page, flags=re.MULTILINE)
    )
    rows = re.findall(
        r"^(\w+) +(gauge|counter|histogram) {1,12}(\S[a-z]*(?:, [a-z]+)?|) {2,}", metrics.__doc__, flags=re.MULTILINE
    )
    documented = {(f"bullpen_{name}", kind, labels) for name, kind, labels in rows}
    assert len(documented) == 20
    assert {(name, kind, labels.strip()) for name, kind, labels in on_page} == documented


def test_every_runbook_belongs_to_an_alert():
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == ALERTS.keys()


def test_the_chart_brings_the_rules_with_links_and_labels(chart):
    rules = {
        "enabled": True,
        "runbookUrl": "https://docs.example.com/runbooks/",
        "alertLabels": {"team": "platform"},
        "labels": {"release": "prometheus"},
    }
    rendered = chart.objects({"monitoring": {"rules": rules}}).one("PrometheusRule", "bullpen")
    assert rendered["metadata"]["labels"]["release"] == "prometheus"
    found = {rule["alert"]: rule for group in rendered["spec"]["groups"] for rule in group["rules"]}
    assert found.keys() == ALERTS.keys()
    for name, rule in found.items():
        assert rule["expr"] == ALERTS[name]["expr"]
        assert rule["labels"] == {**ALERTS[name]["labels"], "team": "platform"}
        assert rule["annotations"]["runbook_url"] == f"https://docs.example.com/runbooks/{name}.md"
        assert rule["annotations"]["summary"] == ALERTS[name]["annotations"]["summary"]
