"""`bullpen check`: what it prints, and how it exits."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from bullpen_cli.check import check

GOOD = "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {name: emails}\n"
WARNED = GOOD + "spec: {workerPoolRef: {name: pool}}\n"
BAD = GOOD + 'spec:\n  retry:\n    attempts: "five"\n'
INERT = "this field does nothing yet"
SECRET = "apiVersion: v1\nkind: Secret\n"

app = typer.Typer()
app.command()(check)


def run(*arguments: str, stdin: str = "") -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, arguments, input=stdin)
    return result.exit_code, result.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("good", GOOD), ("warned", WARNED), ("queues", BAD), ("secret", SECRET + "---\n" + GOOD)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "exit_code", "lines"),
    [
        ("good.yaml", 0, ["1 object checked: 0 errors, 0 warnings"]),
        (
            "warned.yaml",
            0,
            [
                f"warned.yaml:4: spec.workerPoolRef: {INERT}: nobody works on the queue on its account (warning)",
                "1 object checked: 0 errors, 1 warning",
            ],
        ),
        (
            "queues.yaml",
            1,
            [
                'queues.yaml:6: spec.retry.attempts: found "five"; allowed: an integer from 1 to 100',
                "1 object checked: 1 error, 0 warnings",
            ],
        ),
        ("secret.yaml", 0, ["1 object checked, 1 document of other kinds left aside: 0 errors, 0 warnings"]),
        (
            "none.yaml",
            1,
            ["none.yaml: cannot be read: No such file or directory", "0 objects checked: 1 error, 0 warnings"],
        ),
    ],
)
def test_lines(folder: Path, file: str, exit_code: int, lines: list[str]):
    assert run(file) == (exit_code, lines)


def test_several_files_and_a_folder(folder: Path):
    code, lines = run("good.yaml", "queues.yaml")
    assert (code, lines[-1]) == (1, "2 objects checked: 1 error, 0 warnings")
    code, lines = run(".")
    assert code == 1
    assert lines[-1].startswith("4 objects checked, 1 document of other kinds left aside:")


def test_standard_input():
    assert run("-", stdin=BAD)[1][0].startswith("<stdin>:6: spec.retry.attempts: ")


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_for_machines(folder: Path, output: str, read):
    code, lines = run("queues.yaml", "--output", output)
    assert code == 1
    assert read("\n".join(lines)) == {
        "findings": [
            {
                "severity": "error",
                "file": "queues.yaml",
                "line": 6,
                "document": 1,
                "field": "spec.retry.attempts",
                "found": '"five"',
                "allowed": "an integer from 1 to 100",
                "message": 'found "five"; allowed: an integer from 1 to 100',
            }
        ],
        "objects": 1,
        "others": 0,
        "errors": 1,
        "warnings": 0,
    }


@pytest.mark.parametrize("arguments", [[], ["good.yaml", "--colour"], ["good.yaml", "--output", "xml"]])
def test_a_wrong_call(folder: Path, arguments: list[str]):
    assert run(*arguments)[0] == 2


def in_a_process(folder: Path, stdout: int, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "import typer; from bullpen_cli.check import check; typer.run(check)"
    env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "TERM"}}
    command = [sys.executable, "-c", code, "queues.yaml"]
    return subprocess.run(command, cwd=folder, stdout=stdout, env=env | environment, check=False)


def test_colours_on_a_terminal_only(folder: Path):
    piped = in_a_process(folder, subprocess.PIPE, TERM="xterm", COLUMNS="40")
    assert piped.returncode == 1
    assert piped.stdout.decode().splitlines()[0].endswith("allowed: an integer from 1 to 100")  # not folded either
    assert b"\x1b" not in piped.stdout
    master, slave = pty.openpty()
    try:
        in_a_process(folder, slave, TERM="xterm")
        seen = os.read(master, 65_536)
    finally:
        os.close(slave)
        os.close(master)
    assert b"\x1b[31m" in seen
