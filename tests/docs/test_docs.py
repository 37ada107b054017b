"""Every command in the docs does what its page says, and every link leads somewhere."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bullpen.api import v1alpha1
from tests.docs import pages

PAGES = pages.pages()
NOT_HERE = re.compile(r"^(make |pip install |git clone |docker |kubectl |helm |npm |bullpen .*--jobqueue )")
"""Commands that other tests run: CI installs the wheel and runs make's targets in a clean checkout, tests/cluster has the
commands on Kubernetes (`test_runbooks`, `test_chart`), tests/e2e builds the images."""
HIDDEN = re.compile(r"^(?: {4}|\t)\$? ?((?:bullpen|kubectl|helm|docker) .*)$", re.MULTILINE)
"""A command that no test would find."""


def name(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_works_as_it_says(page, tmp_path, bullpen_redis):
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "BULLPEN_REDIS_URL": bullpen_redis,
        "PYTHONPATH": str(tmp_path),
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",  # as a terminal has it: lines come in the order in which they were printed
        "COLUMNS": "120",
    }
    for block in pages.blocks(page):
        place = f"{name(page)}:{block.line}"
        if block.language == "console":
            for step in pages.steps(block):
                if not NOT_HERE.match(step.command):
                    play(step, place=f"{name(page)}:{step.line}", folder=tmp_path, environment=environment)
        elif block.words and "." in block.words[0]:
            file = tmp_path / block.words[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            try:
                ast.parse(block.text)
            except SyntaxError as error:
                pytest.fail(f"{place}: {error}")
        elif block.language == "yaml":
            try:
                assert all(yaml.safe_load_all(block.text))
            except yaml.YAMLError as error:
                pytest.fail(f"{place}: {error}")


def play(step, *, place, folder, environment):
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
        text=True,
    )
    shown = f"{place}: $ {step.command}\n{done.stdout}"
    assert done.returncode == step.exit_code, f"{shown}\nexit code {done.returncode}, not {step.exit_code}"
    if step.expected.strip():
        assert pages.matches(step.expected, done.stdout), f"{shown}\nis not what the page says:\n{step.expected}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_objects_on_a_page_are_what_bullpen_takes(page):
    """Whole ones, and the spec of a JobQueue alone."""
    for block in pages.blocks(page):
        for obj in yaml.safe_load_all(block.text) if block.language == "yaml" else ():
            if obj.keys() == {"spec"} and "containers" not in obj["spec"]:
                whole = {
                    "apiVersion": "bullpen.dev/v1alpha1",
                    "kind": "JobQueue",
                    "metadata": {"name": "emails"},
                    **obj,
                }
            else:
                whole = obj
            if str(whole.get("apiVersion")).startswith("bullpen.dev/"):
                assert getattr(v1alpha1, whole["kind"]).model_validate(whole), f"{name(page)}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_stands_where_tests_find_it(page):
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert HIDDEN.findall(text) == [], "put it into a block of ```console"


@pytest.mark.timeout(300)
def test_examples_pass_a_strict_type_checker(tmp_path, tmp_path_factory):
    cache = tmp_path_factory.mktemp("mypy")
    problems = []
    for page in PAGES:
        folder = tmp_path / name(page).replace("/", "-")
        files = [block for block in pages.blocks(page) if block.words and block.words[0].endswith(".py")]
        for block in files:
            file = folder / block.words[0]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        if files:
            command = [
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--explicit-package-bases",
                "--cache-dir",
                str(cache),
                ".",
            ]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
            if done.returncode:
                problems.append(f"{name(page)}:\n{done.stdout}{done.stderr}")
    assert not problems, "\n".join(problems)


def links(page):
    """Give what a page links to within the project: the target as it stands there, the file, the heading."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        yield target, (page.parent / path).resolve() if path else page, fragment


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_project_lead_somewhere(page):
    for target, file, fragment in links(page):
        assert file.exists(), f"{name(page)} links to {target}, which does not exist"
        if fragment and file.suffix == ".md":
            headings = re.findall(r"^#+ +(.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert fragment in anchors, f"{name(page)} links to {target}: no such heading"


def test_every_page_is_reached_from_the_first():
    reached, ahead = set(), [pages.ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            ahead += [file for _, file, _ in links(page)]
    assert [name(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize(
    ("expected", "printed", "is_match"),
    [
        ("done\n", "done\n", True),
        ("done\n", "done  \n\n", True),
        ("done\n", "undone\n", False),
        ("took … ms\n", "took 17 ms\n", True),
        ("a\n…\nb\n", "a\n1\n2\nb\n", True),
        ("a\n…\nb\n", "a\nb\n", True),
        ("a\n…\n", "b\na\n", False),
        ("1 (one)\n", "1 (one)\n", True),
    ],
)
def test_what_a_page_says_is_held_against_what_is_printed(expected, printed, is_match):
    assert pages.matches(expected, printed) is is_match
