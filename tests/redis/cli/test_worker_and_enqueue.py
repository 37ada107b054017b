"""`bullpen worker` and `bullpen enqueue` together, as two shells on one Redis."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import yaml

from bullpen import embedded
from bullpen.clients.sync_client import SyncClient
from bullpen.queue.keys import QueueKeys
from support.waiting import eventually_sync
from tests.support.kubernetes.processes import free_ports

TESTS = Path(__file__).parents[2]


@dataclass
class Shell:
    """Runs the command against one Redis."""

    redis: str

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "BULLPEN_REDIS_URL": self.redis, "PYTHONPATH": str(TESTS), "COLUMNS": "300"}

    def run(self, *arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bullpen_cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            env=self.env | env,
        )

    def enqueue(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.run("enqueue", "heavy", *arguments, stdin=stdin)

    @contextlib.contextmanager
    def worker(self, tmp_path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """Run a worker; gives it with the file of its log lines."""
        log = tmp_path / "worker.log"
        command = [
            sys.executable,
            "-m",
            "bullpen_cli",
            "worker",
            "--queue",
            "heavy",
            "--handlers",
            "support.heavy:heavy",
        ]
        with log.open("wb") as errors:
            process = subprocess.Popen([*command, *arguments], stdout=errors, stderr=errors, env=self.env)
        try:
            yield process, log
        finally:
            process.terminate()
            try:
                process.wait(60)
            finally:
                process.kill()
                process.wait()


@pytest.fixture
def shell(bullpen_redis: str) -> Shell:
    return Shell(bullpen_redis)


def log_lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


# -- enqueue ---------------------------------------------------------------------------------------------------


def test_a_url_that_is_given_takes_the_prefix_of_the_environment(shell: Shell) -> None:
    ended = shell.run("enqueue", "heavy", "square", "--redis", shell.redis, BULLPEN_PREFIX="shop")
    assert (ended.returncode, ended.stderr) == (0, "")
    with SyncClient(shell.redis, prefix="shop") as client:
        assert client.queue("heavy").counts()["waiting"] == 1


def test_it_prints_the_id_of_a_job_that_is_in_redis(shell: Shell) -> None:
    ended = shell.enqueue("square", '{"number": 7}', "--attempts", "4", "--priority", "3", "--timeout", "30s")
    assert (ended.returncode, ended.stderr) == (0, "")
    with SyncClient(shell.redis) as client:
        info = client.queue("heavy").job(ended.stdout.strip()).info()
    assert (info.name, info.data, info.attempts, info.priority, info.state) == (
        "square",
        {"number": 7},
        4,
        3,
        "prioritized",
    )


@pytest.mark.parametrize("way", ["standard input", "a file"])
def test_the_payload_from(shell: Shell, way: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"number": 8}')
    from_file = way == "a file"
    ended = shell.enqueue(
        *(["square", "--data-file", str(tmp_path / "data.json")] if from_file else ["square", "-"]),
        stdin=None if from_file else '{"number": 8}\n',
    )
    assert ended.returncode == 0
    with SyncClient(shell.redis) as client:
        assert client.queue("heavy").job(ended.stdout.strip()).info().data == {"number": 8}


def test_ids_delays_and_forms_of_output(shell: Shell) -> None:
    first = shell.enqueue("square", "--job-id", "square-7", "--delay", "1h", "--output", "json")
    again = shell.enqueue("square", "--job-id", "square-7", "--output", "yaml")
    expected = {"id": "square-7", "queue": "heavy", "name": "square"}
    assert json.loads(first.stdout) == yaml.safe_load(again.stdout) == expected
    with SyncClient(shell.redis) as client:
        assert client.queue("heavy").job("square-7").info().state == "delayed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--job-id", "12"], "job_id: '12' is not allowed"),
        (["--priority", "urgent"], "priority: 'urgent' is not allowed"),
        (["--lifo", "--priority", "3"], "lifo: True is not allowed"),
    ],
)
def test_an_option_that_is_not_allowed_is_wrong_usage(shell: Shell, arguments: list[str], message: str) -> None:
    ended = shell.enqueue("square", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


def test_a_redis_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        shell = Shell(f"redis://:s3cret@127.0.0.1:{taken.getsockname()[1]}/0")
        ended = shell.enqueue("square")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"error: .*127\.0\.0\.1:\d+.*refused.*\n", ended.stderr)
    assert "s3cret" not in ended.stderr


def test_who_waits_in_vain_is_told_and_has_the_id(shell: Shell) -> None:
    ended = shell.enqueue("square", "--wait", "100ms")
    job_id = ended.stdout.strip()
    assert ended.returncode == 1
    assert ended.stderr == f"error: job {job_id} (square) has not ended yet; it goes on\n"


@contextlib.contextmanager
def on_a_terminal(shell: Shell, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run enqueue with its error output on a terminal; gives the process and the terminal's other end."""
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bullpen_cli", "enqueue", "heavy", *arguments],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=shell.env | {"TERM": "xterm-256color"},
    )
    os.close(follower)
    os.set_blocking(leader, False)
    try:
        yield process, leader
    finally:
        process.kill()
        process.communicate()
        os.close(leader)


def read_all(terminal: int) -> str:
    shown = b""
    with contextlib.suppress(BlockingIOError, OSError):
        while part := os.read(terminal, 65_536):
            shown += part
    return shown.decode()


def test_on_a_terminal_it_shows_how_far_the_job_is(shell: Shell, tmp_path: Path) -> None:
    data = json.dumps({"lines": 43})
    with (
        shell.worker(tmp_path),
        on_a_terminal(shell, "chatter then wait", data, "--wait", "100s") as (process, terminal),
    ):
        shown: list[str] = []

        def sees(words: str) -> bool:
            shown.append(read_all(terminal))
            return words in "".join(shown)

        eventually_sync(lambda: sees("chatter then wait: active"), 20)
        with SyncClient(shell.redis) as client:
            assert process.stdout is not None
            job_id = process.stdout.readline().decode().strip()
            eventually_sync(lambda: client.queue("heavy").job(job_id).info().progress == 42)
            client.queue("heavy").job(job_id).cancel("seen enough")
        assert process.wait(60) == 1
        eventually_sync(lambda: sees("was cancelled: seen enough"), 5)


def test_on_a_terminal_it_waits_for_a_redis_that_is_away_as_elsewhere(redis_server: embedded.Server) -> None:
    shell = Shell(redis_server.url)
    with on_a_terminal(shell, "square", "--delay", "1h", "--wait", "5m") as (process, terminal):
        assert process.stdout is not None
        job_id = process.stdout.readline().decode().strip()
        shown: list[str] = []

        def sees(words: str) -> bool:
            shown.append(read_all(terminal))
            return words in "".join(shown)

        eventually_sync(lambda: sees("square: delayed"))
        redis_server.kill()
        until = time.monotonic() + 3  # which it looks at several times
        eventually_sync(lambda: sees("never shown") or time.monotonic() > until)
        redis_server.restart()
        with SyncClient(redis_server.url) as client:
            client.queue("heavy").job(job_id).cancel("seen enough")
        eventually_sync(lambda: sees("was cancelled: seen enough"))
        assert process.wait() == 1


def test_ctrl_c_while_it_waits_ends_it_without_a_traceback(shell: Shell) -> None:
    with on_a_terminal(shell, "square", "--wait", "1m") as (process, terminal):
        assert process.stdout is not None
        assert process.stdout.readline()  # the id, at once
        process.send_signal(signal.SIGINT)
        shown: list[str] = []

        def has_ended() -> bool:
            shown.append(read_all(terminal))  # a terminal that nobody reads fills up, and its writer waits
            return process.poll() is not None

        eventually_sync(has_ended, timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in "".join(shown)


# -- worker ----------------------------------------------------------------------------------------------------


def test_jobs_go_through_process_and_thread_and_failures_are_told(shell: Shell, tmp_path: Path) -> None:
    with shell.worker(tmp_path) as (worker, log):
        done = shell.enqueue("square", '{"number": 12}', "--wait", "100s")
        assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, ["144"], "")
        assert shell.enqueue("thread", "--wait", "100s", "-o", "json").stdout.endswith('"result": null\n}\n')
        failed = shell.enqueue("fail", '{"how": "for good"}', "--wait", "100s", "-o", "json")
        assert failed.returncode == 1
        outcome = json.loads(failed.stdout)
        assert (outcome["outcome"], outcome["reason"]) == ("failed", "no such card")
        assert f"error: job {outcome['id']} (fail) failed: bullpen.NonRetryableError: no such card\n" == failed.stderr
        cancelled = shell.enqueue("fail", '{"how": "cancel"}', "--wait", "100s")
        assert cancelled.stderr.endswith(" (fail) was cancelled: account closed\n")
        nested = shell.enqueue("enqueue", "--wait", "100s")  # ctx.client in a process: a blocking client
        with SyncClient(shell.redis) as client:
            job_id = json.loads(nested.stdout.splitlines()[1])
            assert client.queue("heavy").job(job_id).result(timeout="60s") == 9
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    lines = log_lines(log)
    ends = {(line["name"], line["outcome"]) for line in lines if "outcome" in line}
    assert {("square", "completed"), ("thread", "completed"), ("fail", "failed"), ("fail", "cancelled")} <= ends
    (failure,) = [line for line in lines if line.get("outcome") == "failed"]
    assert (failure["job"], failure["attempt"], failure["queue"]) == (outcome["id"], 1, "heavy")
    assert "no such card" in str(failure["exception"])
    assert "Traceback" not in "".join(line for line in log.read_text().splitlines() if not line.startswith("{"))


def test_probes_and_metrics(shell: Shell, tmp_path: Path) -> None:
    (port,) = free_ports(1)

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as answer:
            return str(answer.read().decode())

    with shell.worker(tmp_path, "--probes", f"127.0.0.1:{port}", "--concurrency", "7"):
        assert shell.enqueue("square", '{"number": 2}', "--wait", "100s").returncode == 0
        assert get("healthz")
        assert get("readyz")
        count = 'bullpen_job_attempts_total{name="square",outcome="completed",queue="heavy"} 1.0'
        eventually_sync(lambda: count in get("metrics"), 10)
        assert 'bullpen_worker_slots{queue="heavy"} 7.0' in get("metrics")


@pytest.mark.parametrize(
    ("handlers", "queue", "message"),
    [
        ("no.such", "heavy", "there is no module 'no'"),
        ("support.waiting", "heavy", "support.waiting"),
        ("support.heavy:nobody", "heavy", "nobody"),
        ("support.heavy:heavy", "other", "no handler for queue 'other'"),
    ],
)
def test_handlers_that_cannot_be_used_end_it_with_one_error(
    shell: Shell, handlers: str, queue: str, message: str
) -> None:
    ended = shell.run("worker", "--handlers", handlers, "--queue", queue)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    errors = [json.loads(line) for line in ended.stderr.splitlines() if '"level": "error"' in line]
    assert message in errors[0]["event"]


def test_modules_of_the_current_directory_are_found(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "from bullpen import Handlers\nhere = Handlers('q')\n@here.handler('a')\nasync def a() -> None: ...\n"
        "raise SystemExit('imported')"
    )
    script = Path(sys.executable).with_name("bullpen")
    ended = subprocess.run(
        [script, "worker", "--handlers", "here", "--queue", "q"],
        cwd=tmp_path,
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert "imported" in ended.stderr
    assert ended.returncode == 1


def test_settings_come_from_the_environment(shell: Shell, tmp_path: Path) -> None:
    ended = shell.run(
        "worker",
        BULLPEN_HANDLERS="no.such another",
        BULLPEN_QUEUE="heavy",
        BULLPEN_LOG_FORMAT="console",
        BULLPEN_WORKER_NAME="pod-7",
    )
    assert ended.returncode == 1
    assert "worker pod-7@" in ended.stderr
    assert "queue=heavy" in ended.stderr


@pytest.mark.parametrize(("options", "processes"), [((), 1), (("--recycle-jobs", "1"), 3), (("--recycle-mib", "1"), 3)])
def test_processes_are_replaced_as_asked(
    shell: Shell, tmp_path: Path, options: tuple[str, ...], processes: int
) -> None:
    with shell.worker(tmp_path, "--concurrency", "1", *options):
        ended = [shell.enqueue("pid", "--wait", "100s") for _ in range(3)]
    assert [each.returncode for each in ended] == [0] * 3, ended
    assert len({each.stdout.splitlines()[-1] for each in ended}) == processes


def test_log_lines_name_the_worker_as_redis_does(shell: Shell, tmp_path: Path) -> None:
    with shell.worker(tmp_path, "--name", "pod-7") as (_, log), SyncClient(shell.redis) as client:
        done = shell.enqueue("square", '{"number": 12}', "--wait", "100s")
        assert done.returncode == 0, done.stderr
        keys = QueueKeys("bull", "heavy")
        with redis.Redis.from_url(shell.redis, decode_responses=True) as raw:
            [name] = raw.hkeys(keys.workers)
            assert raw.hget(keys.job(done.stdout.split()[0]), "pb") == name
        assert client.queue("heavy").counts()["completed"] == 1
    found = log_lines(log)
    assert {line["worker"] for line in found} == {name}
    assert {line["event"] for line in found} >= {"job completed", f"worker {name} starts"}
    assert re.fullmatch(r"pod-7@[0-9a-f]{12}", name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_worker_that_is_told_to_stop_while_it_is_imported_ends_well(
    shell: Shell, tmp_path: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time, pathlib\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'bullpen_worker' and 'bullpen_cli' in sys.modules:\n"  # not where coverage looks for it
        f"            pathlib.Path({str(begun)!r}).touch()\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "bullpen_cli", "worker", "--queue", "heavy", "--handlers", "support.heavy:heavy"],
        stderr=subprocess.PIPE,
        env=shell.env | {"PYTHONPATH": f"{tmp_path}:{TESTS}"},
    )
    try:
        eventually_sync(begun.exists, 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=50)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, len(said.splitlines())) == (0, 1)
    assert json.loads(said)["event"] == "the worker was told to stop before it had started"
