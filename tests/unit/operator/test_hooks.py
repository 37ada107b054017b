"""What the chart's Jobs do: what fails ends with 1 and says why, what is changed meanwhile is looked at again."""

import os
import subprocess
import sys

import pytest

from bullpen_operator import hooks
from bullpen_operator.kube import kinds
from bullpen_operator.kube.errors import Conflict


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


class Busy:
    """An API server with one JobQueue, which somebody else changes just when the first patch comes."""

    def __init__(self):
        self.finalizers = [kinds.FINALIZER, "other/one"]
        self.refusals = [Conflict("it has been modified", status=409)]

    async def list(self, *_):
        metadata = {"name": "emails", "namespace": "shop", "finalizers": list(self.finalizers)}
        return [{"metadata": metadata, "spec": {}}]

    async def patch_json(self, kind, namespace, name, operations):
        if self.refusals:
            raise self.refusals.pop()
        self.finalizers = operations[1]["value"]


async def test_what_is_changed_meanwhile_is_looked_at_again():
    async def sleep(_):
        pass

    server = Busy()
    released = await hooks.take_finalizers_off(server, (), "", hooks.Waiting(lambda: 0.0, sleep))
    assert [key.name for key in released] == ["emails"]
    assert server.finalizers == ["other/one"]
