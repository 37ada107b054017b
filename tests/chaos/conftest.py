"""Workers as users start them, `bullpen worker`, to be killed; a Redis of the test's own, to be frozen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path

import pytest
import redis

from bullpen import SyncClient
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import revision
from tests.support.kubernetes.processes import free_ports
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]
LOCK_S = 5.0
CHECK_S = 0.5
KEYS = QueueKeys("bull", "chaos")


class Worker:
    """One `bullpen worker` process and its children."""

    def __init__(
        self, url, log, *, concurrency=100, grace="5s", processes=1, kill_grace=None, handlers="tests.chaos.jobs",
        environ=(), arguments=(), before=(),
    ):  # fmt: skip
        (self.port,) = free_ports(1)
        self.log = log
        environ = os.environ | {"CHAOS_REDIS": url, "PYTHONUNBUFFERED": "1"} | dict(environ)
        if kill_grace is not None:
            environ["BULLPEN_KILL_GRACE"] = kill_grace
        command = [
            *before, sys.executable, "-m", "bullpen_cli", "worker", "--handlers", handlers, "--queue", "chaos",
            "--redis", url, "--processes", str(processes), "--grace", grace,
            *([] if concurrency is None else ["--concurrency", str(concurrency)]),
            "--probes", f"127.0.0.1:{self.port}", "--log-format", "json", *arguments,
        ]  # fmt: skip
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=out)

    @property
    def pid(self):
        return self.process.pid

    def children(self):
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []

    def probe(self, path="/healthz"):
        """Status code and text; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self):
        eventually_sync(lambda: self.process.poll() is not None or self.probe("/readyz")[0] == 200, 60, every=0.05)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def term(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def wait(self, seconds=60):
        return self.process.wait(seconds)


class Lab:
    """A queue, its workers, and what their handlers noted."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = folder
        self.workers = []
        self.redis = redis.Redis.from_url(server.url, decode_responses=True)
        self.client = SyncClient(server.url)

    def policy(self, **spec):
        spec = {
            "recovery": {"lockDuration": f"{LOCK_S:g}s", "checkInterval": "500ms", "maxCrashes": 3},
            "retention": {"completed": {"age": "24h", "count": 100_000}},
        } | spec
        doc = json.dumps(spec)
        self.redis.hset(KEYS.policy, mapping={"v": "1", "rev": revision(doc), "doc": doc})

    def work(self, **options):
        worker = Worker(self.server.url, self.folder / f"worker{len(self.workers)}.log", **options)
        self.workers.append(worker)
        return worker

    def notes(self):
        """What was noted: by event, a list of (job id, seconds)."""
        found = defaultdict(list)
        for line in self.redis.lrange("chaos:log", 0, -1):
            what, job_id, at_ms = line.split()
            found[what].append((job_id, int(at_ms) / 1000))
        return found

    def ids(self, what):
        return [job_id for job_id, _ in self.notes()[what]]

    def job(self, job_id):
        return self.redis.hgetall(KEYS.job(job_id))

    def count(self, state):
        key = getattr(KEYS, state)
        return self.redis.llen(key) if state in {"wait", "active"} else self.redis.zcard(key)

    def metric(self, worker, name):
        """The sum of a metric's samples."""
        lines = worker.probe("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"bullpen_{name}"))

    def logs(self):
        return "\n".join(worker.log.read_text() for worker in self.workers)

    def close(self):
        with contextlib.suppress(Exception):
            self.server.thaw()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        self.redis.close()
        self.client.close()


@pytest.fixture
def lab(redis_server, tmp_path):
    made = Lab(redis_server, tmp_path)
    made.policy()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _show_logs(request, lab):
    yield
    print(lab.logs()[-20_000:])


def now():
    return time.time()
