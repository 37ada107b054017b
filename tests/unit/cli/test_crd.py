"""`bullpen crd`: what it writes, and how it exits."""

import json

import pytest
import typer
import yaml
from typer.testing import CliRunner

from bullpen_cli.crd import crd
from tests.docs.pages import ROOT

app = typer.Typer()
app.command()(crd)
ALL = ["JobQueue", "RedisConnection", "ClusterRedisConnection"]


def kinds(text: str) -> list[str]:
    return [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(text)]


def test_it_writes_what_the_chart_brings():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert kinds(result.stdout) == ALL
    assert result.stdout == (ROOT / "manifests" / "crd.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["JobQueue"], ["JobQueue"]),
        (["jobq"], ["JobQueue"]),
        (["jobqueues.bullpen.dev"], ["JobQueue"]),
        (["clusterredisconnections", "redisconnection"], ["RedisConnection", "ClusterRedisConnection"]),
        (["jobq", "JobQueue"], ["JobQueue"]),
    ],
)
def test_kinds(names: list[str], written: list[str]):
    assert kinds(CliRunner().invoke(app, names).stdout) == written


def test_json_is_a_list_that_kubectl_takes():
    listed = json.loads(CliRunner().invoke(app, ["jobq", "-o", "json"]).stdout)
    assert (listed["kind"], [each["metadata"]["name"] for each in listed["items"]]) == (
        "List",
        ["jobqueues.bullpen.dev"],
    )


def test_another_kind_is_a_wrong_call():
    result = CliRunner().invoke(app, ["WorkerPool"])
    assert result.exit_code == 2
    assert "'WorkerPool' is not a kind of Bullpen's" in " ".join(result.output.split())


def test_help_has_examples():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert "bullpen crd | kubectl apply -f -" in text
