"""`bullpen worker`, `enqueue` and `doctor` in a pod with bindings: each queue by its own user, passwords replaced as they run."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bullpen_operator.connections import acl, health
from tests.redis.tenants.conftest import PASSWORD, Shared, Tenant
from tests.support.mounting import mount
from tests.support.waiting import eventually_sync

TESTS = Path(__file__).parents[2]
NEW = "q" * 43


def files(tenant: Tenant, password: str = PASSWORD) -> dict[str, str]:
    split = urlsplit(tenant.url)
    return {
        "type": "redis",
        "host": split.hostname or "",
        "port": str(split.port),
        "username": tenant.user,
        "password": password,
        "prefix": tenant.prefix,
        "queue": tenant.queue,
    }


class Pod:
    """Runs the command with these bindings, and with no other way to Redis."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith(("BULLPEN_REDIS", "REDIS_"))
        }
        self._env |= {"SERVICE_BINDING_ROOT": str(root), "PYTHONPATH": str(TESTS), "COLUMNS": "300"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bullpen_cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=self._env)

    @contextlib.contextmanager
    def worker(self, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "bullpen_cli", "worker", "--queue", "emails"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--handlers", "support.forwarding:emails"], stdout=out, stderr=out, env=self._env
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "bindings")


def test_a_worker_serves_its_queue_and_its_handlers_enqueue_elsewhere_while_passwords_change(
    shared: Shared, pod: Pod, tmp_path: Path
) -> None:
    emails, images = shared.tenant("shop", "emails"), shared.tenant("blog", "images", name="images")
    folder = mount(tmp_path / "bindings" / "emails", files(emails))
    mount(tmp_path / "bindings" / "images", files(images))
    log = tmp_path / "worker.log"
    with pod.worker(log) as worker:
        first = pod.run("enqueue", "emails", "forward", '{"number": 1}', "--wait", "100s")
        assert first.returncode == 0, first.stderr + log.read_text()
        # as many connections as are counted against the limit of a RedisConnection
        own = health.connections_of({"worker": {"image": "a"}})
        eventually_sync(lambda: sum(each["user"] == emails.user for each in shared.raw.client_list()) == own)
        shared.raw.execute_command("ACL", "SETUSER", emails.user, "resetpass", "#" + acl.password_hash(NEW))
        mount(folder, files(emails, NEW))
        shared.raw.client_kill_filter(user=emails.user)
        second = pod.run("enqueue", "emails", "forward", '{"number": 2}', "--wait", "100s")
        assert second.returncode == 0, second.stderr + log.read_text()
        assert worker.poll() is None
    assert eventually_sync(lambda: shared.raw.llen("blog:images:wait")) == 2
    assert PASSWORD not in log.read_text()
    assert NEW not in log.read_text()


def test_the_doctor_looks_at_a_queue_as_its_user(shared: Shared, pod: Pod, tmp_path: Path) -> None:
    tenant = shared.tenant("shop", "emails")
    mount(tmp_path / "bindings" / "emails", files(tenant))
    told = pod.run("doctor", "--queue", "emails", "--output", "json")
    assert '"shop:emails:* allowed"' in told.stdout, told.stderr
    assert PASSWORD not in told.stdout + told.stderr


def test_a_queue_without_a_binding_or_anything_else_is_an_error_that_says_so(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "bindings").mkdir()
    for arguments in (
        ("enqueue", "emails", "forward", "{}"),
        ("worker", "--queue", "emails", "--handlers", "support.forwarding:emails"),
        ("doctor", "--queue", "emails"),
    ):
        told = pod.run(*arguments)
        assert told.returncode in {1, 2}
        assert "has no binding under SERVICE_BINDING_ROOT" in told.stderr
        assert "Traceback" not in told.stderr
