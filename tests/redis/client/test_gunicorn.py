"""A blocking client in an application that gunicorn loads before it forks."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bullpen import SyncClient
from support.waiting import eventually_sync


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path):
    connection = Unix(path)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        return json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture
def server(bullpen_redis, tmp_path):
    path = tmp_path / "web.sock"
    log = tmp_path / "log"
    command = [
        sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--threads", "2", "--bind", f"unix:{path}",
        "--worker-tmp-dir", str(tmp_path), "--no-control-socket", "preloaded",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent,
            env=os.environ | {"BULLPEN_REDIS_URL": bullpen_redis},
            stdout=out,
            stderr=out,
        )
    try:
        eventually_sync(lambda: process.poll() is not None or log.read_text().count("Booting worker") == 3, 30)
        assert process.poll() is None, log.read_text()
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def test_each_worker_of_a_preloaded_application_enqueues_on_connections_of_its_own(server, bullpen_redis):
    served = Counter()
    ids = []

    def all_served():
        with ThreadPoolExecutor(6) as threads:
            for answer in threads.map(ask, [server] * 24):
                served[answer["pid"]] += 1
                ids.extend(answer["ids"])
        return len(served) == 3

    eventually_sync(all_served, 40)
    assert len(set(ids)) == len(ids) == 2 * served.total()
    with SyncClient(bullpen_redis) as client:
        assert client.queue("emails").counts()["waiting"] == 1 + len(ids)
