"""`bullpen dev` as its users meet it: real processes, a real Redis, files that change."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from support.processes import is_gone
from support.waiting import eventually_sync

QUEUE = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: emails}
spec:
  worker: {image: "x/y:1", handlers: [shop]}
  concurrency: {perWorker: 2}
  retry: {attempts: 2, backoff: {type: Fixed, delay: 100ms}}
  scaling: {maxReplicas: 3, zeroAfter: 5s}
"""

HANDLERS = """
import asyncio, os, pathlib
from bullpen import Cancel, Handlers

emails = Handlers("emails")

@emails.handler("greet")
async def greet(name: str) -> str:
    return f"hello {name}"

@emails.handler("fail")
async def fail() -> None:
    raise ValueError("as it was asked to")

@emails.handler("quit")
async def quit_() -> None:
    raise Cancel("nobody needs it")

@emails.handler("chat")
async def chat() -> None:
    print("[" * 100_000)
    print('{"event": "card declined", "outcome": "declined"}', flush=True)

@emails.handler("hold")
async def hold(file: str) -> str:
    pathlib.Path(file + "-by").write_text(str(os.getppid()))
    pathlib.Path(file).touch()
    while pathlib.Path(file).exists():
        await asyncio.sleep(0.02)
    return "released"
"""

ENQUEUE = [sys.executable, "-m", "bullpen_cli", "enqueue"]


class Shop:
    """A project folder, and local mode in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("queues.yaml", QUEUE)
        self.write("shop.py", HANDLERS)
        self.redis = redis.Redis(unix_socket_path=str(folder / ".bullpen" / "redis.sock"), decode_responses=True)

    def write(self, name, text):
        (self.folder / name).write_text(text)

    def command(self, *words):
        return [sys.executable, "-m", "bullpen_cli", "dev", "-f", "queues.yaml", *words]

    def environment(self):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("BULLPEN_", "REDIS_"))}
        return clean | {"NO_COLOR": "1"}

    def run(self, *words):
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment(), text=True, timeout=150, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self, *words):
        log = self.folder / "dev.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(*words), cwd=self.folder, env=self.environment(), stdout=output, stderr=output
            )
        try:
            yield process, log
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def enqueue(self, *words):
        environment = self.environment() | {"BULLPEN_REDIS_URL": f"unix://{self.folder}/.bullpen/redis.sock"}
        done = subprocess.run(
            [*ENQUEUE, *words],
            cwd=self.folder,
            env=environment,
            text=True,
            timeout=150,
            check=True,
            stdout=subprocess.PIPE,
        )
        return done.stdout.strip()


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_until_idle_ends_with_an_account(shop):
    done = shop.run("--until-idle", "--report", "r.json", "--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}')
    assert done.returncode == 0, done.stdout
    assert json.loads((shop.folder / "r.json").read_text())["queues"]["emails"]["completed"] == 1


def test_the_account_is_complete_however_little_a_worker_is_to_log(shop):
    shop.write(
        "queues.yaml",
        QUEUE.replace(
            "handlers: [shop]}",
            "handlers: [shop], env: [{name: BULLPEN_LOG_LEVEL, value: error}, {name: BULLPEN_LOG_JOBS, value: failures},"
            ' {name: BULLPEN_PROBES, value: ":1"}, {name: BULLPEN_REDIS_URL, value: "redis://127.0.0.1:1"}]}',
        ),
    )
    done = shop.run("--until-idle", "--report", "r.json", "--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}')
    assert done.returncode == 0, done.stdout
    assert json.loads((shop.folder / "r.json").read_text())["queues"]["emails"]["completed"] == 1


def test_until_idle_exits_1_when_a_job_failed_for_good(shop):
    done = shop.run("--until-idle", "--report", "r.json", "--", *ENQUEUE, "emails", "fail")
    assert done.returncode == 1, done.stdout
    account = json.loads((shop.folder / "r.json").read_text())["queues"]["emails"]
    assert (account["retried"], account["failed"]) == (1, 1)
    assert "as it was asked to" in done.stdout


def test_what_handlers_and_the_command_beside_print_ends_nothing_and_counts_nothing(shop):
    beside = f"import subprocess; print('x' * 3_000_000); subprocess.run({[*ENQUEUE, 'emails', 'chat']}, check=True)"
    done = shop.run("--until-idle", "--report", "r.json", "--", sys.executable, "-c", beside)
    assert (done.returncode, "card declined  outcome=declined" in done.stdout) == (0, True), done.stdout[-3000:]
    account = json.loads((shop.folder / "r.json").read_text())["queues"]["emails"]
    assert (account["completed"], account["retried"]) == (1, 0)


def test_a_job_that_was_cancelled_has_not_failed(shop):
    beside = (
        "import subprocess, sys; from bullpen import SyncClient; client = SyncClient();"
        "client.queue('emails').enqueue('greet', {'name': 'Ada'}, delay='1h').cancel('nobody waits any more');"
        "client.queue('emails').enqueue('quit')"
    )
    done = shop.run("--until-idle", "--report", "r.json", "--", sys.executable, "-c", beside)
    assert done.returncode == 0, done.stdout
    assert json.loads((shop.folder / "r.json").read_text())["queues"]["emails"]["cancelled"] == 1
    assert shop.run("--until-idle", "--", *ENQUEUE, "emails", "fail").returncode == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--report", "none/r.json"), "--report none/r.json: there is no folder none"),
        (("--data", "shop.py"), "shop.py cannot hold the Redis data: File exists"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_anything_is_done(shop, words, said):
    done = shop.run("--until-idle", *words, "--", sys.executable, "-c", "print('begun')")
    assert done.returncode == 1
    assert said in done.stdout
    assert "begun" not in done.stdout
    assert "Traceback" not in done.stdout


def test_yaml_may_come_from_standard_input(shop):
    beside = ["--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}', "--wait", "100s"]
    done = subprocess.run(
        [sys.executable, "-m", "bullpen_cli", "dev", "-f", "-", "--until-idle", *beside],
        cwd=shop.folder, env=shop.environment(), text=True, timeout=150, check=False, input=QUEUE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert (done.returncode, "hello Ada" in done.stdout) == (0, True), done.stdout


def test_a_command_beside_that_fails_ends_it(shop):
    done = shop.run("--until-idle", "--", sys.executable, "-c", "raise SystemExit(7)")
    assert done.returncode == 1
    assert "ended with exit code 7" in done.stdout


def test_a_command_beside_that_is_not_there_is_named(shop):
    done = shop.run("--until-idle", "--", "no-such-command")
    assert done.returncode == 1
    assert "no-such-command cannot be run: No such file or directory" in done.stdout


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        (QUEUE.replace("attempts: 2", "attempts: many"), 'queues.yaml:8: spec.retry.attempts: found "many"'),
        ("apiVersion: v1\nkind: ConfigMap\n", "no JobQueue in queues.yaml"),
        (QUEUE + "  deadLetter: {jobQueueRef: {name: dead}}\n", "does nothing yet"),
    ],
    ids=["mistake", "nothing of ours", "later"],
)
def test_what_is_wrong_with_the_yaml_is_said_with_its_place(shop, yaml, said):
    shop.write("queues.yaml", yaml)
    done = shop.run("--until-idle")
    assert said in done.stdout
    assert done.returncode == (0 if said == "does nothing yet" else 1)


def test_workers_that_cannot_start_end_it_with_the_reason(shop):
    shop.write("shop.py", "import nothing_of_that_name\n")
    done = shop.run("--until-idle", "--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}')
    assert done.returncode == 1
    assert "its workers cannot start" in done.stdout
    assert "nothing_of_that_name" in done.stdout
    assert "1 waiting left in Redis" in done.stdout


def test_later_jobs_stay_between_runs_and_are_named(shop):
    done = shop.run("--until-idle", "--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}', "--delay", "1h")
    assert (done.returncode, "emails: 1 delayed left in Redis" in done.stdout) == (0, True), done.stdout
    assert "1 delayed left in Redis" in shop.run("--until-idle").stdout


def test_another_redis_gets_a_prefix_of_its_own(shop, bullpen_redis):
    done = shop.run("--until-idle", "--redis", bullpen_redis, "--", *ENQUEUE, "emails", "greet", '{"name": "Ada"}')
    assert done.returncode == 0, done.stdout
    with contextlib.closing(redis.Redis.from_url(bullpen_redis, decode_responses=True)) as client:
        prefixes = {key.partition(":")[0] for key in client.scan_iter()}
    assert len(prefixes) == 1
    assert prefixes.pop().startswith("dev-")
    assert not (shop.folder / ".bullpen").exists()


def test_ctrl_c_lets_jobs_finish(shop):
    with shop.running() as (process, log):
        eventually_sync((shop.folder / ".bullpen" / "redis.sock").exists)
        job = shop.enqueue("emails", "hold", json.dumps({"file": str(shop.folder / "held")}))
        eventually_sync((shop.folder / "held").exists, timeout=20)
        process.send_signal(signal.SIGINT)
        eventually_sync(lambda: "Stopping" in log.read_text())
        job_id = job.splitlines()[-1].split()[-1]
        (shop.folder / "held").unlink()
        assert process.wait(60) == 0
    assert "left in Redis" not in log.read_text()
    assert job_id


def test_a_second_ctrl_c_has_jobs_given_back(shop):
    with shop.running() as (process, log):
        eventually_sync((shop.folder / ".bullpen" / "redis.sock").exists)
        shop.enqueue("emails", "hold", json.dumps({"file": str(shop.folder / "held")}))
        eventually_sync((shop.folder / "held").exists, timeout=20)
        process.send_signal(signal.SIGINT)
        eventually_sync(lambda: "Stopping" in log.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "emails: 1 waiting left in Redis" in log.read_text()


def test_it_ends_in_order_when_whoever_reads_its_lines_has_seen_enough(shop):
    """As in ``bullpen dev --plain | head``."""
    beside = ["--", sys.executable, "-c", "import time\nwhile True: print('tick', flush=True); time.sleep(0.01)"]
    with (shop.folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            shop.command("--plain", *beside),
            cwd=shop.folder,
            env=shop.environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        assert process.stdout.readline()
        process.stdout.close()
        eventually_sync(lambda: process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, (shop.folder / "errors").read_text()) == (1, "")


@pytest.mark.parametrize("ended_by", [signal.SIGHUP, signal.SIGKILL], ids=["a closed terminal", "SIGKILL"])
def test_workers_end_with_local_mode_whatever_ends_it(shop, ended_by):
    with shop.running() as (process, _):
        eventually_sync((shop.folder / ".bullpen" / "redis.sock").exists)
        shop.enqueue("emails", "hold", json.dumps({"file": str(shop.folder / "held")}))
        eventually_sync((shop.folder / "held").exists)
        worker = int((shop.folder / "held-by").read_text())
        try:
            process.send_signal(ended_by)
            process.wait()
            eventually_sync(lambda: is_gone(worker))
        finally:
            if not is_gone(worker):
                os.kill(worker, signal.SIGKILL)


def test_workers_follow_the_work_and_a_changed_handler_is_taken_up(shop):
    with shop.running() as (_, log):
        eventually_sync((shop.folder / ".bullpen" / "redis.sock").exists)
        held = [shop.folder / f"held-{number}" for number in range(6)]
        for file in held:
            shop.enqueue("emails", "hold", json.dumps({"file": str(file)}))
        eventually_sync(lambda: all(file.exists() for file in held), timeout=30)  # 6 jobs, 2 a worker
        assert len(shop.redis.hgetall("bull:emails:bullpen:workers")) == 3
        for file in held:
            file.unlink()
        assert "hello Ada" in shop.enqueue("emails", "greet", '{"name": "Ada"}', "--wait", "100s")
        shop.write("shop.py", HANDLERS.replace("hello", "good day"))
        eventually_sync(lambda: "workers start anew" in log.read_text(), timeout=20)
        eventually_sync(
            lambda: "good day Ada" in shop.enqueue("emails", "greet", '{"name": "Ada"}', "--wait", "100s"), timeout=30
        )


def test_changed_yaml_is_taken_up_and_mistakes_in_it_stop_nothing(shop):
    with shop.running() as (process, log):
        eventually_sync(lambda: "emails:" in log.read_text(), timeout=20)
        shop.write("queues.yaml", QUEUE.replace("maxReplicas: 3", "maxReplicas: none"))
        eventually_sync(lambda: "mistakes; what runs goes on" in log.read_text(), timeout=20)
        shop.write("queues.yaml", QUEUE + "  closed: true\n")
        eventually_sync(
            lambda: '"closed":true' in (shop.redis.hget("bull:emails:bullpen:policy", "doc") or ""), timeout=20
        )
        assert process.poll() is None


def test_a_worker_that_the_yaml_gets_later_is_taken_up(shop):
    worker = '  worker: {image: "x/y:1", handlers: [shop]}\n'
    shop.write("queues.yaml", QUEUE.replace(worker, ""))
    with shop.running() as (process, log):
        eventually_sync(lambda: "emails:" in log.read_text(), timeout=20)
        shop.write("queues.yaml", QUEUE)
        assert "hello Ada" in shop.enqueue("emails", "greet", '{"name": "Ada"}', "--wait", "100s")
        shop.write("queues.yaml", QUEUE.replace(worker, ""))
        eventually_sync(lambda: "no longer has a worker" in log.read_text(), timeout=20)
        eventually_sync(lambda: not shop.redis.exists("bull:emails:bullpen:workers"), timeout=20)
        assert process.poll() is None


def test_an_embedded_redis_that_was_killed_comes_back_with_its_jobs(shop):
    with shop.running() as (process, log):
        eventually_sync((shop.folder / ".bullpen" / "redis.sock").exists)
        shop.enqueue("emails", "greet", '{"name": "Ada"}', "--delay", "1h")
        pid = shop.redis.info("server")["process_id"]
        eventually_sync(lambda: shop.redis.info("persistence")["aof_last_write_status"] == "ok")
        os.kill(pid, signal.SIGKILL)
        eventually_sync(lambda: "starting it again" in log.read_text(), timeout=20)
        assert "hello Bob" in shop.enqueue("emails", "greet", '{"name": "Bob"}', "--wait", "100s")
        assert shop.redis.zcard("bull:emails:delayed") == 1
        assert process.poll() is None


def test_schedules_of_the_yaml_run_and_go_with_it(shop):
    beat = "  schedules: [{name: beat, every: 1s, job: greet, data: {name: Eve}}]\n"
    shop.write("queues.yaml", QUEUE + beat)
    with shop.running() as (_, log):
        eventually_sync(lambda: shop.redis.zcard("bull:emails:completed") >= 2, timeout=30)
        assert shop.redis.zrange("bull:emails:repeat", 0, -1) == ["beat"]
        shop.write("queues.yaml", QUEUE)
        eventually_sync(lambda: shop.redis.zcard("bull:emails:repeat") == 0, timeout=20)
        assert "mistakes" not in log.read_text()
