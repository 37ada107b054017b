"""The operator's page names every setting, with its default, and every kind that is made."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bullpen_operator.desired import templates
from bullpen_operator.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "operator.md").read_text()
ROWS = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", PAGE.partition("## Settings")[2], re.MULTILINE))


@pytest.mark.parametrize("setting", [each.name for each in fields(Settings)])
def test_each_setting_is_on_the_page_with_its_default(setting):
    shown = ROWS[setting].strip().strip("`")
    if setting in {
        "namespace",
        "identity",
        "cluster_id",
        "kubeconfig",
        "namespaces",
        "class_name",
        "worker_image_pull_secrets",
    }:
        return  # what stands for nothing given, or comes from the pod, is said in words
    default = getattr(Settings(), setting)
    assert shown == (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def test_no_setting_on_the_page_is_none():
    assert set(ROWS) == {each.name for each in fields(Settings)}


@pytest.mark.parametrize(
    "name", sorted(set(templates.MERGE_KEYS) - {"ephemeralContainers", "claims"}) + sorted(templates.APPENDED)
)
def test_each_list_that_is_merged_is_on_the_page(name):
    assert f"`{name}`" in PAGE
