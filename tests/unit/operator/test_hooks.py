"""The command line of the chart's Jobs: what fails ends with 1 and says why."""

import os
import subprocess
import sys

import pytest


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bullpen_operator.hooks", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_job_that_finds_no_cluster_says_so(tmp_path):
    done = run("redis-password", "--namespace", "a", "--secret", "b", KUBECONFIG=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "no way to the API server" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["release"], ["redis-password", "--namespace", "a"]])
def test_wrong_usage_is_told_from_failure(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m bullpen_operator.hooks" in done.stderr
