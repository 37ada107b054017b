"""`bullpen pause`, `resume` and `adopt`, as a shell runs them."""

import json
import os
import subprocess
import sys

import pytest

from bullpen.api import files
from bullpen.clients.queues import SyncQueue
from bullpen.clients.sync_session import SyncSession, SyncStore
from bullpen.queue.declaration import Owner, WriteDeclaration, declare
from bullpen.queue.keys import QueueKeys

KUBECTL = """#!/usr/bin/env python3
import json, os, pathlib, sys
here = pathlib.Path(os.environ["CLUSTER"])
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if arguments[0] == "get":
    print((here / "jobqueue.json").read_text())
elif (here / "refusal").exists():
    sys.exit((here / "refusal").read_text())
"""
"""Stands where a cluster would: writes down what it was asked. tests/cluster runs the commands with kubectl itself."""


@pytest.fixture
def session(bullpen_redis):
    session = SyncSession(SyncStore(bullpen_redis, prefix=None, timeout=5), ())
    yield session
    session.close()


@pytest.fixture
def shell(bullpen_redis, tmp_path):
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.replace("\\\\n", "\\n"))
    program.chmod(0o755)
    environment = {
        **os.environ,
        "BULLPEN_REDIS_URL": bullpen_redis,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "CLUSTER": str(tmp_path),
        "COLUMNS": "300",
    }

    def run(*arguments, code=0, answer=""):
        command = [sys.executable, "-m", "bullpen_cli", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, input=answer, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def calls(folder):
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def jobqueue(folder, *, spec=None, conditions=()):
    found = {
        "spec": spec or {},
        "status": {"conditions": list(conditions), "queue": {"name": "mails", "prefix": "bull"}},
    }
    (folder / "jobqueue.json").write_text(json.dumps(found))


def test_a_queue_is_paused_and_resumed_in_redis(shell, session):
    queue = SyncQueue(session, "emails")
    assert "emails is paused" in shell("pause", "emails")
    assert queue.paused()
    assert shell("pause", "emails") == "emails is paused already\n"
    assert shell("resume", "emails") == "emails runs\n"
    assert not queue.paused()
    assert shell("resume", "emails") == "emails is not paused\n"


def test_what_a_spec_pauses_is_not_resumed_behind_its_back(shell, session):
    text = (
        "apiVersion: bullpen.dev/v1alpha1\nkind: JobQueue\nmetadata: {name: emails}\n"
        "spec: {paused: true, worker: {image: i, handlers: [shop]}}\n"
    )
    (emails,) = files.loads(text).jobqueues
    keys = QueueKeys("bull", "emails")
    session.run(declare(WriteDeclaration.of(emails, keys, Owner("c1", "shop", "emails")), 0))
    assert "paused by the spec of its JobQueue (c1/shop/emails)" in shell("resume", "emails", code=1)
    assert SyncQueue(session, "emails").paused()


def test_a_jobqueue_is_paused_by_its_spec(shell, tmp_path):
    shell("pause", "--jobqueue", "emails", "-n", "shop", "--context", "prod")
    (call,) = calls(tmp_path)
    assert call[:2] == ["patch", "jobqueues.bullpen.dev/emails"]
    assert json.loads(call[call.index("--patch") + 1]) == {"spec": {"paused": True}}
    assert call[-4:] == ["--namespace", "shop", "--context", "prod"]


def test_a_jobqueue_is_resumed_by_taking_the_field_away(shell, tmp_path):
    jobqueue(tmp_path, spec={"paused": True})
    shell("resume", "--jobqueue", "emails")
    assert json.loads(calls(tmp_path)[-1][calls(tmp_path)[-1].index("--patch") + 1]) == {"spec": {"paused": None}}


def test_what_was_paused_in_redis_is_said_to_be(shell, tmp_path):
    jobqueue(tmp_path, conditions=[{"type": "Paused", "status": "True"}])
    assert "bullpen resume mails" in shell("resume", "--jobqueue", "emails", code=1)
    assert [call[0] for call in calls(tmp_path)] == ["get"]


def test_a_queue_is_adopted_from_the_owner_that_the_condition_names(shell, tmp_path):
    message = "the queue 'emails' (prefix 'bull') belongs to 'c1/old/emails', not to 'c2/shop/emails': give …"
    jobqueue(tmp_path, conditions=[{"type": "QueueOwned", "status": "False", "message": message}])
    shell("adopt", "emails", answer="n\n", code=1)
    assert [call[0] for call in calls(tmp_path)] == ["get"]
    shell("adopt", "emails", answer="y\n")
    patch = calls(tmp_path)[-1]
    change = {"metadata": {"annotations": {"bullpen.dev/adopt": "c1/old/emails"}}}
    assert json.loads(patch[patch.index("--patch") + 1]) == change


def test_nothing_is_adopted_that_belongs_to_nobody_else(shell, tmp_path):
    jobqueue(tmp_path, conditions=[{"type": "QueueOwned", "status": "True", "message": "…"}])
    assert "nothing to take" in shell("adopt", "emails", "--yes", code=1)


def test_a_refusal_of_the_cluster_is_told_in_its_words(shell, tmp_path):
    (tmp_path / "refusal").write_text('Error from server (Forbidden): jobqueues.bullpen.dev "emails" is forbidden\n')
    assert "(Forbidden): jobqueues.bullpen.dev" in shell("pause", "--jobqueue", "emails", code=1)


@pytest.mark.parametrize("arguments", [["pause"], ["resume", "emails", "--jobqueue", "emails"]])
def test_a_queue_or_a_jobqueue_is_named_not_both(shell, arguments):
    assert "--jobqueue" in shell(*arguments, code=2)


def test_without_kubectl_it_is_said(shell, monkeypatch, tmp_path):
    (tmp_path / "bin" / "kubectl").unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    environment = {**os.environ, "COLUMNS": "300"}
    command = [sys.executable, "-m", "bullpen_cli", "pause", "--jobqueue", "emails"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 1
    assert "kubectl is not on the PATH" in done.stderr
