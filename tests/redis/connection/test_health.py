"""Examining real servers: good ones, wrong ones, those that let us read nothing, and those that do not answer."""

import json
import os
import subprocess
import sys
import time

import pytest
import yaml

from bullpen import embedded
from bullpen.redis.findings import Status
from bullpen.redis.health import HealthReport, examine
from bullpen.redis.settings import RedisSettings


def statuses(report: HealthReport) -> dict[str, str]:
    return {one.name: str(one.status) for one in report.findings}


async def test_an_embedded_redis_is_what_bullpen_wants(shared):
    report = await examine(RedisSettings.from_url(shared.url))
    assert statuses(report) == dict.fromkeys(
        ["reachable", "version", "role", "eviction", "persistence", "memory", "clock", "scripts", "keys", "account"],
        "ok",
    )
    assert report.healthy
    assert shared.execute(b"DBSIZE") == b":0\r\n"


async def test_what_is_wrong_is_found(own):
    for setting in (b"maxmemory 500kb", b"maxmemory-policy allkeys-lru", b"appendonly no"):
        own.execute(b"CONFIG", b"SET", *setting.split())
    report = await examine(RedisSettings.from_url(own.url), clock=lambda: time.time() - 60)
    assert statuses(report) == {
        "reachable": "ok",
        "version": "ok",
        "role": "ok",
        "eviction": "fail",
        "persistence": "warn",
        "memory": "fail",
        "clock": "fail",
        "scripts": "ok",
        "keys": "ok",
        "account": "ok",
    }
    own.execute(b"REPLICAOF", b"127.0.0.1", b"1")
    assert statuses(await examine(RedisSettings.from_url(own.url)))["role"] == "fail"


async def test_a_poor_account_gives_unknowns(shared):
    shared.execute(b"ACL", b"SETUSER", b"poor", b"on", b">x", b"~bull:*", b"+eval", b"+exists")
    settings = RedisSettings.from_url(shared.url.replace("://", "://poor:x@"))
    report = await examine(settings)
    found = statuses(report)
    assert found == {
        "reachable": "ok",
        "version": "ok",  # HELLO tells everyone
        "role": "ok",
        "eviction": "unknown",
        "persistence": "unknown",
        "memory": "unknown",
        "clock": "unknown",
        "scripts": "ok",
        "keys": "ok",
        "account": "unknown",
    }
    assert report.healthy
    elsewhere = settings.model_copy(update={"prefix": "other"})
    assert statuses(await examine(elsewhere))["keys"] == "unknown"
    assert not (await examine(elsewhere, queue="emails")).healthy


async def test_an_account_of_one_queue_is_healthy_for_that_queue(shared):
    shared.execute(b"ACL", b"SETUSER", b"mails", b"on", b">x", b"~bull:emails:*", b"+@all")
    settings = RedisSettings.from_url(shared.url.replace("://", "://mails:x@"))
    assert statuses(await examine(settings, queue="emails"))["keys"] == "ok"
    assert statuses(await examine(settings, queue="payments"))["keys"] == "fail"
    assert (await examine(settings)).healthy


async def test_scripts_that_are_forbidden_are_found(shared):
    shared.execute(b"ACL", b"SETUSER", b"mute", b"on", b">x", b"~*", b"+@all", b"-@scripting")
    report = await examine(RedisSettings.from_url(shared.url.replace("://", "://mute:x@")))
    assert statuses(report)["scripts"] == "fail"


async def test_a_frozen_and_a_dead_server_are_not_reachable(own):
    settings = RedisSettings.from_url(own.url)
    own.freeze()
    report = await examine(settings, timeout=0.2)
    assert statuses(report) == {"reachable": "fail"}
    own.thaw()
    own.kill()
    report = await examine(settings)
    assert "connection refused" in report.findings[0].found
    assert report.status is Status.FAIL


# -- the command -----------------------------------------------------------------------------------------------


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bullpen_cli", "doctor", *arguments]
    inherited = {name: value for name, value in os.environ.items() if "REDIS" not in name}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=inherited | {"COLUMNS": "120"} | environment,
    )


def test_doctor_says_what_is_fine_and_ends_with_0(redis_binary):
    with embedded.start(binary=redis_binary, password="s3cr3t") as server:
        ran = doctor(BULLPEN_REDIS_URL=server.url)
    assert ran.returncode == 0, ran.stderr
    assert "Bullpen can rely on this Redis." in ran.stdout
    assert "(from BULLPEN_REDIS_URL)" in ran.stdout
    assert "s3cr3t" not in ran.stdout + ran.stderr


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_doctor_ends_with_1_when_something_fails(redis_binary, output, read):
    config = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with embedded.start(binary=redis_binary, config=config) as server:
        ran = doctor("--redis", server.url, "--output", output)
    assert ran.returncode == 1, ran.stderr
    data = read(ran.stdout)
    assert data["status"] == "fail"
    eviction = next(one for one in data["findings"] if one["name"] == "eviction")
    assert eviction["status"] == "fail"
    assert "noeviction" in eviction["advice"]


def test_doctor_of_a_dead_port_says_what_to_do():
    ran = doctor("--redis", "redis://127.0.0.1:1", "--timeout", "2s")
    assert ran.returncode == 1
    assert "connection refused" in " ".join(ran.stdout.split())
    assert "see that the server runs" in " ".join(ran.stdout.split())


@pytest.mark.parametrize(
    "arguments", [("--redis", "http://x"), ("--timeout", "5"), ("--timeout", "0s"), ("--output", "xml"), ("surplus",)]
)
def test_doctor_called_wrongly_ends_with_2(arguments):
    ran = doctor(*arguments)
    assert ran.returncode == 2, ran.stdout + ran.stderr


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_where_nobody_listens_the_advice_is_not_about_tls(scheme):
    report = await examine(RedisSettings.from_url(f"{scheme}://127.0.0.1:1"))
    assert "see that the server runs" in report.findings[0].advice


async def test_where_a_server_does_not_speak_tls_it_is(shared):
    report = await examine(RedisSettings.from_url(shared.url.replace("redis://", "rediss://")), timeout=1)
    assert "compare the TLS options" in report.findings[0].advice


def test_doctor_of_a_wrong_environment_names_the_variable():
    ran = doctor(BULLPEN_REDIS_URL="redis+sentinel://a")
    assert ran.returncode == 1
    assert "BULLPEN_REDIS_URL" in ran.stderr
    assert "Traceback" not in ran.stderr
