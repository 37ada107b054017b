"""A worker's log lines, as a collector reads them."""

import asyncio
import contextvars
import io
import json
import logging
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
import structlog

from bullpen.errors import ConfigurationError
from bullpen_worker.executors.threads import ThreadPool
from bullpen_worker.reports import logs
from bullpen_worker.reports.logs import JobLog, LogSettings
from bullpen_worker.running.hooks import JobEnd
from bullpen_worker.supervision.child import Witness
from bullpen_worker.supervision.control import Channel

SETTINGS = LogSettings("emails", "pod-7")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Log as a worker does, into memory; what pytest set up comes back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure(SETTINGS, stream)
    yield stream
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_completed_job(out: io.StringIO) -> None:
    JobLog().ended("j1", "welcome", 2, "completed", wait_ms=3.14, run_ms=12.345)
    (line,) = lines(out)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "level": "info",
        "event": "job completed",
        "queue": "emails",
        "job": "j1",
        "name": "welcome",
        "attempt": 2,
        "outcome": "completed",
        "duration_ms": 12.3,
        "wait_ms": 3.1,
        "worker": "pod-7",
    }


def test_a_job_that_never_ran_has_no_duration(out: io.StringIO) -> None:
    JobLog().ended("j1", "welcome", 1, "expired", wait_ms=5, run_ms=None)
    (line,) = lines(out)
    assert "duration_ms" not in line
    assert line["wait_ms"] == 5


async def test_what_a_child_logs_of_a_job_that_never_ran_has_no_duration_either(out: io.StringIO) -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    witness = Witness(channel, ["welcome"], JobLog(), alone=False)
    witness.job_ended(JobEnd("j1", "welcome", 1, 3, "expired", 5, None))
    await channel.close()
    theirs.close()
    (line,) = lines(out)
    assert (line["outcome"], "duration_ms" in line) == ("expired", False)


def test_a_failed_job_brings_its_reason_and_the_traceback_as_one_field(out: io.StringIO) -> None:
    JobLog().ended(
        "j1", "welcome", 3, "failed", wait_ms=0, run_ms=1, error="ValueError", reason="no", traceback="Trace\n  back\n"
    )
    (line,) = lines(out)
    assert (line["level"], line["event"]) == ("error", "job failed")
    assert (line["error"], line["reason"], line["exception"]) == ("ValueError", "no", "Trace\n  back")


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("retried", "warning"),
        ("timeout", "warning"),
        ("lock_lost", "warning"),
        ("expired", "warning"),
        ("cancelled", "info"),
        ("released", "info"),
        ("failed", "error"),
    ],
)
def test_the_level_fits_the_outcome(out: io.StringIO, outcome: str, level: str) -> None:
    JobLog().ended("j1", "welcome", 1, outcome, wait_ms=0, run_ms=0)  # type: ignore[arg-type]  a table of names
    assert [line["level"] for line in lines(out)] == [level]


def test_what_a_handler_logs_carries_its_job_however_it_logs(out: io.StringIO) -> None:
    def handle() -> None:
        logs.bind_job("j1", "welcome", 2)
        logging.getLogger("shop").warning("careful with %s", "this", extra={"user": 3})
        structlog.get_logger().info("seen", size=4)

    contextvars.copy_context().run(handle)
    logging.getLogger("shop").warning("afterwards")
    careful, seen, afterwards = lines(out)
    assert "job" not in afterwards
    assert all((line["job"], line["name"], line["attempt"]) == ("j1", "welcome", 2) for line in (careful, seen))
    assert (careful["event"], careful["user"], careful["logger"]) == ("careful with this", 3, "shop")
    assert (seen["event"], seen["size"], seen["level"]) == ("seen", 4, "info")


async def test_tasks_and_threads_of_a_job_carry_it_and_other_jobs_do_not_mix(out: io.StringIO) -> None:
    pool = ThreadPool(2)

    async def job(job_id: str) -> None:
        logs.bind_job(job_id, "welcome", 1)
        await pool.run(lambda: logging.getLogger("shop").info("thread of %s", job_id))
        await asyncio.create_task(asyncio.to_thread(logging.getLogger("shop").info, "task of %s", job_id))

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(job(f"j{number}"))
    pool.close()
    assert len(lines(out)) == 20
    assert all(str(line["event"]).endswith(f"of {line['job']}") for line in lines(out))


def test_an_exception_is_one_line(out: io.StringIO) -> None:
    try:
        int("first\nsecond")
    except ValueError:
        logging.getLogger("shop").exception("failed")
    (line,) = lines(out)
    assert str(line["exception"]).startswith("Traceback")
    assert str(line["exception"]).endswith("with base 10: 'first\\nsecond'")


def test_passwords_in_urls_are_blotted_out_everywhere(out: io.StringIO) -> None:
    url = "rediss://app:s3cret@redis:6379/0"
    try:
        int(url)
    except ValueError:
        logging.getLogger("shop").exception("lost %s", url, extra={"url": url})
    JobLog().ended("j1", "welcome", 1, "failed", wait_ms=0, run_ms=0, reason=f"no {url}", traceback=f"x {url}")
    assert "s3cret" not in out.getvalue()
    assert out.getvalue().count("rediss://***@redis:6379/0") == 5


def test_what_json_cannot_say_is_written_as_text(out: io.StringIO) -> None:
    structlog.get_logger().info("odd", thing={1, 2}, raw=b"bytes")
    (line,) = lines(out)
    assert line["thing"] == "{1, 2}"


def test_lines_below_the_level_are_not_written(out: io.StringIO) -> None:
    logs.configure(LogSettings("emails", "pod-7", level="warning"), out)
    JobLog().ended("j1", "welcome", 1, "completed", wait_ms=0, run_ms=0)
    logging.getLogger("shop").info("not this")
    structlog.get_logger().info("nor this")
    logging.getLogger("shop").warning("this")
    assert [line["event"] for line in lines(out)] == ["this"]


def test_beyond_the_second_s_lines_jobs_are_counted_in_one(out: io.StringIO) -> None:
    log = JobLog(per_second=3)
    for number in range(10):
        log.ended(f"j{number}", "welcome", 1, "completed", wait_ms=0, run_ms=2)
        log.ended(f"k{number}", "charge", 1, "retried", wait_ms=0, run_ms=4)
    assert len(lines(out)) == 6
    log.tick()
    log.tick()  # nothing more to tell
    summary = {line["name"]: line for line in lines(out)[6:]}
    assert [summary["welcome"][key] for key in ("event", "count", "mean_ms")] == ["7 more jobs completed", 7, 2.0]
    assert [summary["charge"][key] for key in ("event", "level", "outcome")] == [
        "7 more jobs retried",
        "warning",
        "retried",
    ]
    assert not any("job" in line for line in summary.values())
    log.ended("j11", "welcome", 1, "completed", wait_ms=0, run_ms=2)
    assert lines(out)[-1]["job"] == "j11"


def test_a_timeout_says_whether_the_job_failed_by_it_for_good_also_where_it_is_only_counted(out: io.StringIO) -> None:
    log = JobLog(per_second=2)
    for number in range(3):
        log.ended(f"j{number}", "welcome", 1, "timeout", wait_ms=0, run_ms=2)
        log.ended(f"k{number}", "welcome", 3, "timeout", wait_ms=0, run_ms=2, final=True)
    log.tick()
    told = [(line.get("final", False), line.get("count", 1)) for line in lines(out)]
    assert told == [(False, 1), (True, 1), (False, 2), (True, 2)]


def test_a_flood_of_completions_does_not_hide_a_failure(out: io.StringIO) -> None:
    log = JobLog(per_second=2)
    for number in range(50):
        log.ended(f"j{number}", "welcome", 1, "completed", wait_ms=0, run_ms=2)
    log.ended("bad", "welcome", 1, "failed", wait_ms=0, run_ms=2, reason="no")
    assert lines(out)[-1]["job"] == "bad"


@pytest.mark.parametrize(("mode", "expected"), [("all", 11), ("failures", 1), ("sampled", 4)])
def test_which_jobs_are_logged_line_by_line(out: io.StringIO, mode: logs.JobLines, expected: int) -> None:
    log = JobLog(mode, per_second=3)
    for number in range(10):
        log.ended(f"j{number}", "welcome", 1, "completed", wait_ms=0, run_ms=2)
    log.ended("bad", "welcome", 1, "failed", wait_ms=0, run_ms=2)
    assert len(lines(out)) == expected


def test_text_for_people(out: io.StringIO) -> None:
    logs.configure(LogSettings("emails", "pod-7", format="console"), out)
    JobLog().ended("j1", "welcome", 3, "failed", wait_ms=0, run_ms=1, reason="no such user", traceback="Trace\n  back")
    first, *rest = out.getvalue().splitlines()
    assert "job failed" in first
    assert "job=j1" in first
    assert "reason='no such user'" in first
    assert rest == ["Trace", "  back"]
    assert "\x1b[" not in first


def test_settings_travel_to_a_child() -> None:
    settings = LogSettings("emails", "pod-7", format="json", level="debug", jobs="all")
    assert LogSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, r"log format: 'xml' is not allowed; allowed: json, console"),
        ({"level": "loud"}, r"log level: 'loud' is not allowed; allowed: debug, info, warning, error"),
        ({"jobs": "some"}, r"log jobs: 'some' is not allowed; allowed: all, sampled, failures"),
    ],
)
def test_what_is_not_allowed_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LogSettings("emails", "pod-7", **options)  # type: ignore[arg-type]  that is what is tested


def test_warnings_are_lines_too() -> None:
    program = """
        import warnings
        from bullpen_worker.reports import logs
        logs.configure(logs.LogSettings("emails", "pod-7"))
        warnings.warn("old")
    """
    command = [sys.executable, "-W", "default", "-c", textwrap.dedent(program)]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=True)
    (line,) = [json.loads(text) for text in ended.stderr.splitlines()]
    assert "UserWarning: old" in line["event"]
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")


@pytest.mark.parametrize(("terminal", "no_color", "json_", "coloured"), [(False, "", True, False), (True, "", False, True), (True, "1", False, False)])  # fmt: skip
def test_the_form_follows_the_error_output(terminal: bool, no_color: str, json_: bool, coloured: bool) -> None:
    program = f"""
        import logging, os, pty, sys
        from bullpen_worker.reports import logs
        if {terminal}:
            leader, follower = pty.openpty()
            os.dup2(follower, 2)
        logs.configure(logs.LogSettings("emails", "pod-7"))
        logging.getLogger("shop").warning("hello")
        sys.stdout.buffer.write(os.read(leader, 4096) if {terminal} else b"")
    """
    environment = {"NO_COLOR": no_color, "TERM": "xterm"}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        timeout=60,
        check=True,
        env=environment,
    )
    output = ended.stdout + ended.stderr
    assert b"hello" in output
    assert output.startswith(b"{") is json_
    assert (b"\x1b[" in output) is coloured
