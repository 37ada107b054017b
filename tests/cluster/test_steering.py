"""`bullpen pause`, `resume` and `adopt` by kubectl, on a real API server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bullpen.api import crd
from tests.support.kubernetes import binaries

VERSION = "bullpen.dev/v1alpha1"


@pytest.fixture
def shell(api_server, api, namespace):
    api.install([crd.definition("JobQueue")])
    (kubectl,) = binaries.ensure("kubectl")
    environment = {
        **os.environ,
        "PATH": f"{Path(kubectl).parent}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(api_server.admin.kubeconfig),
        "COLUMNS": "300",
    }

    def run(*arguments, code=0):
        command = [sys.executable, "-m", "bullpen_cli", *arguments, "--namespace", namespace]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def emails(api, shell, namespace):
    jobqueue = {"apiVersion": VERSION, "kind": "JobQueue", "metadata": {"name": "emails", "namespace": namespace}}
    api.create({**jobqueue, "spec": {}})
    return lambda: api.get(VERSION, "JobQueue", namespace, "emails")


def test_paused_and_resumed_by_the_spec(shell, emails):
    shell("pause", "--jobqueue", "emails")
    assert emails()["spec"]["paused"] is True
    shell("resume", "--jobqueue", "emails")
    assert "paused" not in emails()["spec"]


def test_adopted_by_an_annotation(shell, emails):
    shell("adopt", "emails", "--from", "c1/old/emails", "--yes")
    assert emails()["metadata"]["annotations"] == {"bullpen.dev/adopt": "c1/old/emails"}


def test_a_jobqueue_that_there_is_not(shell):
    assert 'jobqueues.bullpen.dev "nobody" not found' in shell("pause", "--jobqueue", "nobody", code=1)
