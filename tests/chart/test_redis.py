"""The chart's Redis as it really starts: its own configuration, its own scripts, a real server."""

import hashlib
import os
import shutil
import subprocess
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bullpen_operator.connections import acl
from tests.chart.rendering import Chart
from tests.support import requirements
from tests.support.kubernetes.processes import free_ports

PASSWORD = "a$(touch broken) pass'word"


@pytest.fixture(scope="module")
def files(chart: Chart) -> dict[str, str]:
    """The ConfigMap's files."""
    return chart.objects({"redis": {"enabled": True, "maxmemory": "64mb"}}).one("ConfigMap", "bullpen-redis")["data"]


class Server:
    """A pod's worth of Redis: the init container, then the server, on a folder instead of the paths of the pod."""

    def __init__(self, folder, files, binary):
        self.folder = folder
        self.port = free_ports(1)[0]
        self.binary = binary
        for name in ("data", "secret", "config", "bin"):
            (folder / name).mkdir()
        for name, text in files.items():
            here = text.replace("/run/secrets/bullpen", str(folder / "secret")).replace("/data", str(folder / "data"))
            (folder / "config" / name).write_text(here.replace("port 6379", f"port {self.port}"))
        self.set_password(PASSWORD)
        (folder / "secret" / "username").write_text("bullpen")
        cli = shutil.which("redis-cli")
        (folder / "bin" / "redis-cli").write_text(f'#!/bin/sh\nexec {cli} -p {self.port} "$@"\n')
        (folder / "bin" / "redis-cli").chmod(0o755)
        self.process = None

    def set_password(self, password):
        (self.folder / "secret" / "password").write_text(password)

    def start(self):
        done = self.script("users.sh")
        assert done.returncode == 0, done.stderr
        self.process = subprocess.Popen(
            [self.binary, self.folder / "config" / "redis.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while self.script("ready.sh").returncode:
            assert time.monotonic() < until
            assert self.process.poll() is None
            time.sleep(0.05)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def script(self, name):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = ["sh", self.folder / "config" / name]
        return subprocess.run(command, env={"PATH": path}, cwd=self.folder, capture_output=True, text=True, check=False)

    def client(self, username=None, password=None):
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, username=username, password=password, decode_responses=True, retry=once)


@pytest.fixture
def server(tmp_path, files, redis_binary):
    if shutil.which("redis-cli") is None:
        requirements.missing("cluster", "redis-cli is not installed: the probes of the chart's Redis are not tried")
    made = Server(tmp_path, files, redis_binary.path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait(60)


def test_it_keeps_jobs_and_evicts_nothing(server):
    server.start()
    with server.client("bullpen", PASSWORD) as client:
        wanted = {
            "maxmemory": "67108864",
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_what_scripts_wrote_outlives_a_restart(server):
    server.start()
    job = "redis.call('HSET', KEYS[1], 'data', '{}') redis.call('LPUSH', KEYS[2], '1')"  # one transaction in the file
    with server.client("bullpen", PASSWORD) as client:
        client.eval(job, 2, "shop:emails:1", "shop:emails:wait")
    server.stop()
    server.start()
    with server.client("bullpen", PASSWORD) as client:
        assert client.hgetall("shop:emails:1") == {"data": "{}"}
        assert client.lrange("shop:emails:wait", 0, -1) == ["1"]


def test_nobody_comes_in_without_a_name(server):
    server.start()
    for username, password in [(None, None), (None, PASSWORD), ("default", ""), ("bullpen", "wrong")]:
        with server.client(username, password) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
    assert not (server.folder / "broken").exists()


@pytest.mark.parametrize(
    ("username", "password", "says"),
    [
        ("default", PASSWORD, "not default, who is turned off"),
        ("", PASSWORD, "must be a word"),
        ("two words", PASSWORD, "must be a word"),
        ("bullpen", "", "the Secret's password is empty"),
        ("bullpen", "\n", "the Secret's password is empty"),
    ],
)
def test_a_secret_of_somebodys_own_that_would_not_do_is_refused(server, username, password, says):
    (server.folder / "secret" / "username").write_text(username)
    server.set_password(password)
    done = server.script("users.sh")
    assert done.returncode == 1
    assert says in done.stderr
    assert not (server.folder / "data" / "users.acl").exists()


@pytest.mark.parametrize("key", ["username", "password"])
def test_a_secret_that_lacks_a_key_is_refused(server, key):
    (server.folder / "secret" / key).unlink()
    done = server.script("users.sh")
    assert done.returncode == 1
    assert key in done.stderr


def test_probes_tell_a_server_that_works_from_one_that_does_not(server):
    assert server.script("ready.sh").returncode != 0
    assert server.script("live.sh").returncode != 0
    server.start()
    assert server.script("ready.sh").returncode == 0
    assert server.script("live.sh").returncode == 0
    server.set_password("another")
    assert server.script("ready.sh").returncode != 0
    assert server.script("live.sh").returncode == 0


TENANT = acl.user_name("c1", "shop", "emails")


def test_users_of_tenants_outlive_a_restart_and_a_new_password_does_not_need_them(server):
    server.start()
    with server.client("bullpen", PASSWORD) as client:
        client.execute_command("ACL", "SETUSER", TENANT, "on", ">s3cret", "~shop:emails:*", "+@all")
        client.execute_command("ACL", "SAVE")
        client.set("shop:emails:a", "kept")
    server.stop()
    server.set_password("another\n")
    server.start()
    with server.client(TENANT, "s3cret") as tenant:
        assert tenant.get("shop:emails:a") == "kept"
    with server.client("bullpen", "another") as client:
        assert client.ping()
        assert sorted(client.acl_users()) == ["bullpen", TENANT, "default"]
    with server.client("bullpen", PASSWORD) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


def test_who_was_the_operator_by_another_name_is_let_in_no_more(server):
    """That user had all rights, and perhaps it was replaced because its password had leaked."""
    server.start()
    with server.client("bullpen", PASSWORD) as client:
        client.execute_command("ACL", "SETUSER", TENANT, "on", ">s3cret", "~shop:emails:*", "+@all")
        client.execute_command("ACL", "SAVE")
    server.stop()
    (server.folder / "secret" / "username").write_text("platform")
    server.start()
    with server.client("platform", PASSWORD) as client:
        assert sorted(client.acl_users()) == [TENANT, "default", "platform"]


def test_the_password_lies_in_no_file_but_the_secret(server):
    server.start()
    text = (server.folder / "data" / "users.acl").read_text()
    assert PASSWORD not in text
    assert hashlib.sha256(PASSWORD.encode()).hexdigest() in text
    assert (server.folder / "data" / "users.acl").stat().st_mode & 0o077 == 0


def test_the_operators_user_may_do_what_it_needs_and_not_ruin_the_server(server):
    server.start()
    with server.client("bullpen", PASSWORD) as client:
        for command in (["INFO"], ["ACL", "LIST"], ["CLIENT", "LIST"], ["CONFIG", "GET", "maxmemory"], ["ROLE"]):
            client.execute_command(*command)
        for command in (
            ["FLUSHALL"],
            ["CONFIG", "SET", "maxmemory", "1"],
            ["SHUTDOWN"],
            ["KEYS", "*"],
            ["REPLICAOF", "a", "1"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
