"""Two of what there should be one of."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from tests.chaos import proving, recorded
from tests.chaos.conftest import KEYS, ROOT
from tests.support.waiting import eventually_sync

YAML = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: emails}
spec:
  worker: {image: "x/y:1", handlers: [shop]}
  scaling: {maxReplicas: 2}
"""

SHOP = """
from bullpen import Handlers

emails = Handlers("emails")

@emails.handler("greet")
async def greet(name: str) -> str:
    return f"hello {name}"
"""


def test_two_workers_of_one_name(lab):
    """As two containers with one host name: each keeps its own jobs, and one that dies takes the blame alone."""
    crew = [proving.work(lab, concurrency=10, arguments=["--name", "twin"]).ready() for _ in range(2)]
    handles = lab.client.enqueue_many([recorded.nap.job(3) for _ in range(20)])
    eventually_sync(lambda: len(proving.running(lab)) == 20)
    entries = lab.redis.hgetall(KEYS.workers)
    assert {json.loads(entry)["host"] for entry in entries.values()} == {"twin"}
    assert len(entries) == 2
    pids = set(crew[0].children())
    crew[0].kill()
    eventually_sync(lambda: proving.completed(lab, 20), 30)
    for handle in handles:
        each = proving.runs(lab)[handle.id]
        assert len(each) == (2 if each[0].pid in pids else 1)
        assert lab.job(handle.id)["atm"] == "1"
    assert crew[1].process.poll() is None


def test_a_worker_started_twice_by_mistake_shares_the_work(lab):
    """The same command on the same machine: the probes' port is taken, which the second one says; the first goes on."""
    first = proving.work(lab, concurrency=5).ready()
    second = proving.work(lab, concurrency=5, arguments=["--probes", f"127.0.0.1:{first.port}"])
    assert second.wait(20) == 1
    said = second.log.read_text()
    assert f"127.0.0.1:{first.port}" in said
    assert "Traceback" not in said
    lab.client.enqueue(recorded.nap.job(0.01)).result(timeout="60s")
    assert first.probe()[0] == 200


@contextlib.contextmanager
def dev(folder, log, *words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BULLPEN_", "REDIS_"))}
    path = os.pathsep.join([str(ROOT / part) for part in ("client", "worker", "cli")])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bullpen_cli", "dev", "-f", "queues.yaml", *words],
            cwd=folder, env=clean | {"NO_COLOR": "1", "PYTHONPATH": path}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()


def test_two_local_modes_on_one_data_directory(tmp_path):
    (tmp_path / "queues.yaml").write_text(YAML)
    (tmp_path / "shop.py").write_text(SHOP)
    with dev(tmp_path, tmp_path / "first.log") as first:
        eventually_sync((tmp_path / ".bullpen" / "redis.sock").exists, 20)
        eventually_sync(lambda: "emails" in (tmp_path / "first.log").read_text(), 20)
        with dev(tmp_path, tmp_path / "second.log") as second:
            assert second.wait(30) == 1
            said = (tmp_path / "second.log").read_text()
            assert "is in use by process" in said
            assert "Traceback" not in said
        assert first.poll() is None
