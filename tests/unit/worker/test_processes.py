"""Handlers in processes of their own: real processes, real deaths."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from bullpen import retry
from bullpen.handling import execution, outcomes
from bullpen.handling.contexts import ActiveJob, CancelReason
from bullpen.handling.handlers import Handlers
from bullpen.handling.outcomes import Outcome
from bullpen.handling.registrations import Registration
from bullpen.options import Backoff
from bullpen.retry import Policy
from bullpen_worker.executors import process_child
from bullpen_worker.executors.processes import ProcessDied, ProcessPool
from bullpen_worker.executors.recycling import Recycling
from bullpen_worker.reports.logs import LogSettings
from support import heavy
from support.processes import is_gone
from support.waiting import eventually, eventually_sync


@dataclass
class Said:
    """The services of a job: what its handler reported."""

    progress_seen: list[object] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def progress(self, value_json: str) -> None:
        self.progress_seen.append(json.loads(value_json))

    def log(self, line: str) -> None:
        self.lines.append(line)

    @property
    def client(self) -> None: ...

    @property
    def sync_client(self) -> None: ...


@dataclass
class Processes:
    """A pool, as `execution.run_attempt` wants it."""

    processes: ProcessPool

    async def run_thread(self, call: Callable[[], object], job: ActiveJob) -> object:
        return call()

    async def run_process(self, registration: Registration, job: ActiveJob) -> Outcome:
        return await self.processes.run(registration, job)


def registrations(*owners: Handlers) -> list[Registration]:
    return [
        handler.registration(owner)
        for owner in owners or (heavy.heavy,)
        for handlers in owner.registered.values()
        for handler in handlers
    ]


ALL = {each.name: each for each in registrations(heavy.heavy, heavy.with_deps, heavy.with_plain_deps)}


def job(name: str, data: object = None, **fields: object) -> ActiveJob:
    payload = json.dumps({} if data is None else data)
    policy = Policy(3, Backoff.exponential("2s", max_delay="1m"), retry.Source.BUILT_IN)
    return ActiveJob("j1", name, "heavy", payload, 1, policy, Said(), **{"started_at_ms": 5, **fields})


async def run(executors: Processes, name: str, data: object = None, **fields: object) -> Outcome:
    return await execution.run_attempt(ALL[name], job(name, data, **fields), executors=executors)


async def value(executors: Processes, name: str, data: object = None) -> object:
    outcome = await run(executors, name, data)
    assert isinstance(outcome, outcomes.Completed), outcome
    return json.loads(outcome.value)


@contextlib.asynccontextmanager
async def opened(size: int = 2, *owners: Handlers, recycling: Recycling | None = None) -> AsyncIterator[Processes]:
    async with ProcessPool(registrations(*owners), size, recycling=recycling) as pool:
        yield Processes(pool)


@pytest.fixture
async def executors() -> AsyncIterator[Processes]:
    async with opened() as executors:
        yield executors


def test_jobs_run_on_the_loop_of_workers_too() -> None:
    async def scenario() -> object:
        async with opened(1) as executors:
            return await value(executors, "square", {"number": 7})

    assert uvloop.run(scenario()) == 49


async def test_a_handler_that_closes_the_output_completes_and_the_next_too(executors: Processes) -> None:
    assert [await value(executors, "mute") for _ in range(2)] == [7, 7]
    assert len(executors.processes.pids) == 1


async def test_it_runs_elsewhere_in_the_main_thread_of_a_process_that_is_used_again(
    executors: Processes,
) -> None:
    assert await value(executors, "square", {"number": 12}) == 144
    pid, is_main_thread, path = await value(executors, "pid")
    assert pid != os.getpid()
    assert (is_main_thread, path) == (True, sys.path[0])
    assert (await value(executors, "pid"))[0] == pid
    assert executors.processes.pids == (pid,)


async def test_a_handler_may_run_an_event_loop_of_its_own(executors: Processes) -> None:
    assert await value(executors, "loop") == 4


async def test_jobs_run_side_by_side_up_to_the_size(executors: Processes, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    jobs = [asyncio.create_task(run(executors, "report", {"gate": str(gate)})) for _ in range(3)]
    await eventually(lambda: len(executors.processes.pids) == 2)
    gate.touch()
    assert await asyncio.gather(*jobs) == [outcomes.Completed("null")] * 3
    assert len(executors.processes.pids) == 2


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("retried", outcomes.Retried),
        ("given up", outcomes.Failed),
        ("for good", outcomes.Failed),
        ("snooze", outcomes.Snoozed(900_000)),
        ("cancel", outcomes.Cancelled("account closed")),
        ("limited", outcomes.RateLimited(10_000)),
        ("exit", outcomes.Retried),
    ],
)
async def test_outcomes_are_those_of_other_handlers(executors: Processes, how: str, expected: object) -> None:
    outcome = await run(executors, "fail", {"how": how})
    if isinstance(expected, type):
        assert isinstance(outcome, expected)
    else:
        assert outcome == expected
    assert await value(executors, "square", {"number": 2}) == 4  # the process lives on
    assert len(executors.processes.pids) == 1


async def test_an_error_keeps_its_type_message_and_traceback_and_backoff_for_is_asked(
    executors: Processes,
) -> None:
    outcome = await run(executors, "fail", {"how": "retried"})
    assert isinstance(outcome, outcomes.Retried)
    assert (outcome.failure.error_type, outcome.failure.reason, outcome.delay_ms) == (
        "ValueError",
        "not this time",
        60_000,
    )
    assert 'heavy.py", line ' in outcome.failure.stack
    outcome = await run(executors, "fail later")
    assert isinstance(outcome, outcomes.Retried)
    assert outcome.delay_ms == 7 * 60_000


async def test_a_payload_that_does_not_fit_is_refused_there(executors: Processes) -> None:
    outcome = await run(executors, "square", {"number": "many"})
    assert isinstance(outcome, outcomes.Failed)
    assert "number" in outcome.failure.reason


async def test_what_it_prints_and_reports_arrives_in_order_and_apart(capfd: pytest.CaptureFixture[str]) -> None:
    async with opened() as executors:
        active = job("chatter", {"lines": 3}, fence=9)
        outcome = await execution.run_attempt(ALL["chatter"], active, executors=executors)
    assert outcome == outcomes.Completed("\"j1 chatter 1 9 {'lines': 3} None\"")
    assert active.services.lines == ["line number=0", "line number=1", "line number=2"]
    assert active.services.progress_seen[-1] == 2
    captured = capfd.readouterr()
    assert captured.out == "\x00\x00\x00\x05hello on stdout\n"
    assert captured.err == "hello on stderr\n"


def test_a_flood_of_reports_is_bounded_and_said_so() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        report = process_child.Report(process_child.Wire(theirs))
        with report._sending:  # nothing is sent meanwhile, as when the worker does not read
            for number in range(process_child.MOST_LINES + 500):
                report.log(f"line {number}")
                report.progress(str(number))
        report.flush()
        wire = process_child.Wire(ours)
        received = [wire.receive() for _ in range(process_child.MOST_LINES + 2)]
    assert received[-1] == {"kind": "progress", "text": "1499"}
    assert received[-2] == {"kind": "log", "text": "(500 lines came too fast and were left out)"}
    assert [each["text"] for each in received[:-2]] == [f"line {n}" for n in range(process_child.MOST_LINES)]


async def test_reports_arrive_while_the_handler_runs(executors: Processes, tmp_path: Path) -> None:
    active = job("report", {"gate": str(tmp_path / "gate")})
    running = asyncio.create_task(execution.run_attempt(ALL["report"], active, executors=executors))
    await eventually(lambda: active.services.progress_seen == [{"at": "half"}])
    assert not running.done()
    (tmp_path / "gate").touch()
    assert await running == outcomes.Completed("null")


@pytest.mark.parametrize(
    ("how", "words"),
    [("segfault", "signal 11, SIGSEGV"), ("exit", "exit status 7"), ("killed", "signal 9, SIGKILL; out of memory?")],
)
async def test_a_process_that_dies_fails_its_attempt_and_no_other(
    executors: Processes,
    how: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    outcome = await run(executors, "die", {"how": how})
    assert isinstance(outcome, outcomes.Retried)
    assert outcome.failure.error_type == "bullpen_worker.ProcessDied"
    assert outcome.failure.reason == f"the process that ran it died ({words})"
    last = await execution.run_attempt(ALL["die"], job("die", {"how": how}), executors=executors)
    assert isinstance(last, outcomes.Retried)
    assert await value(executors, "square", {"number": 3}) == 9
    assert words in caplog.text
    assert capfd.readouterr().err == ""


async def test_a_job_that_always_kills_its_process_fails_when_its_attempts_are_used_up(
    executors: Processes,
) -> None:
    active = job("die", {"how": "exit"})
    active.attempt = 3
    assert isinstance(await execution.run_attempt(ALL["die"], active, executors=executors), outcomes.Failed)


async def test_a_process_that_died_while_it_was_free_costs_no_attempt(executors: Processes) -> None:
    (pid,) = executors.processes.pids
    os.kill(pid, signal.SIGKILL)
    outcomes_ = [await run(executors, "square", {"number": 3}) for _ in range(3)]
    assert outcomes_ == [outcomes.Completed("9")] * 3
    assert pid not in executors.processes.pids


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (CancelReason.TIMEOUT, outcomes.Retried),
        (CancelReason.CANCELLED, outcomes.Cancelled),
        (CancelReason.SHUTDOWN, outcomes.Released),
        (CancelReason.LOCK_LOST, outcomes.LockLost),
    ],
)
async def test_a_cancelled_job_s_process_is_killed_with_what_it_started(
    executors: Processes, tmp_path: Path, reason: CancelReason, expected: type, capfd: pytest.CaptureFixture[str]
) -> None:
    active = job("hang", {"pids": str(tmp_path / "pids")}, timeout_ms=30_000)
    running = asyncio.create_task(execution.run_attempt(ALL["hang"], active, executors=executors))
    await eventually((tmp_path / "pids").exists)
    active.scope.cancel(reason, "enough")
    assert isinstance(await running, expected)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert is_gone(pids[0])
    await eventually(lambda: is_gone(pids[1]))
    assert await value(executors, "square", {"number": 3}) == 9
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 20])
async def test_a_job_that_is_cancelled_while_its_process_starts_leaves_none_behind(steps: int) -> None:
    def children() -> set[int]:
        found: set[int] = set()
        for path in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):  # that thread has ended
                found |= {int(pid) for pid in path.read_text().split()}
        return {pid for pid in found if not is_gone(pid)}

    before = children()
    async with opened() as executors:
        (pid,) = executors.processes.pids
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: is_gone(pid))
        running = asyncio.create_task(run(executors, "square", {"number": 2}))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert executors.processes.pids == ()
        assert children() <= before  # some of an earlier test may have been about to leave


async def test_leaving_the_pool_kills_what_still_runs(tmp_path: Path) -> None:
    async with opened() as executors:
        active = job("hang", {"pids": str(tmp_path / "pids")})
        running = asyncio.create_task(execution.run_attempt(ALL["hang"], active, executors=executors))
        await eventually((tmp_path / "pids").exists)
    assert isinstance(await running, outcomes.Retried)
    assert is_gone(int((tmp_path / "pids").read_text().split()[0]))
    assert executors.processes.pids == ()


async def three_at_once(executors: Processes, gate: Path) -> None:
    jobs = [asyncio.create_task(run(executors, "report", {"gate": str(gate)})) for _ in range(3)]
    await eventually(lambda: len(executors.processes.pids) == 3, 20)
    await asyncio.to_thread(gate.touch)
    await asyncio.gather(*jobs)


async def test_processes_that_are_not_needed_leave(tmp_path: Path) -> None:
    async with ProcessPool(registrations(), 3, idle_seconds=0.3) as pool:
        executors = Processes(pool)
        await three_at_once(executors, tmp_path / "gate")
        await eventually(lambda: len(pool.pids) == 1, 10)
        [kept] = pool.pids
        await eventually(lambda: not pool._leaving, 10)
        assert await value(executors, "square", {"number": 3}) == 9
        assert pool.pids == (kept,)


async def test_processes_beyond_a_lowered_size_leave(tmp_path: Path) -> None:
    async with opened(3) as executors:
        pool = executors.processes
        await three_at_once(executors, tmp_path / "gate")
        pool.size = 1
        assert len(pool.pids) == 1
        assert await value(executors, "square", {"number": 3}) == 9


async def test_processes_are_replaced_after_so_many_jobs() -> None:
    async with opened(1, recycling=Recycling(jobs=2)) as executors:
        pids = [(await value(executors, "pid"))[0] for _ in range(4)]
        assert pids[0] == pids[1] != pids[2] == pids[3]
        await eventually(lambda: is_gone(pids[0]))


async def test_processes_that_grew_too_big_are_replaced() -> None:
    async with opened(1, recycling=Recycling(memory_bytes=200 * 1024 * 1024)) as executors:
        small = await value(executors, "grow", {"megabytes": 1})
        big = await value(executors, "grow", {"megabytes": 250})
        assert small == big != await value(executors, "grow", {"megabytes": 1})


async def test_lifespans_are_entered_and_left_once_in_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(heavy.RECORD, str(tmp_path / "record"))
    async with opened(1, heavy.with_deps, heavy.with_plain_deps) as executors:
        for _ in range(3):
            assert await value(executors, "async deps") is True
            assert await value(executors, "plain deps") is True
        (pid,) = executors.processes.pids
    lines = (tmp_path / "record").read_text().splitlines()
    assert lines == [f"{what} {pid}" for what in ("plain entered", "entered", "left", "plain left")]


BROKEN = {
    "an import": "raise RuntimeError('no licence')",
    "a lifespan": """
        import contextlib
        from bullpen.handling.handlers import Handlers
        @contextlib.{kind}
        {prefix}def broken():
            raise RuntimeError("no licence")
            yield
        handlers = Handlers("heavy", lifespan=broken)
        @handlers.handler("square", executor="process")
        def square(number: int) -> int: return number
    """,
}


@pytest.mark.parametrize(("kind", "prefix"), [("contextmanager", ""), ("asynccontextmanager", "async ")])
async def test_a_lifespan_that_fails_is_said_at_the_start_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    module = f"broken_{kind}"
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(BROKEN["a lifespan"]).format(kind=kind, prefix=prefix))
    monkeypatch.syspath_prepend(tmp_path)
    owner = __import__(module).handlers
    with pytest.raises(ProcessDied, match=r"(?s)could not be started.*Traceback.*RuntimeError: no licence"):
        async with opened(1, owner):
            pass
    assert capfd.readouterr().err == ""


async def test_no_process_where_no_handler_asks_for_one() -> None:
    threads = [each for each in registrations() if each.kind == "thread"]
    async with ProcessPool(threads, 4) as pool:
        assert pool.pids == ()


async def test_its_logs_carry_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    pool = ProcessPool(registrations(), 1, logs=LogSettings("heavy", "pod-7", format="json"))
    async with pool:
        await pool.run(ALL["say"], job("say"))
    line = json.loads(capfd.readouterr().err)
    assert [line[key] for key in ("event", "job", "name", "attempt", "worker")] == [
        "from a handler",
        "j1",
        "say",
        1,
        "pod-7",
    ]


@pytest.mark.parametrize("is_busy", [True, False])
def test_processes_die_with_the_worker_even_one_that_holds_the_gil(tmp_path: Path, is_busy: bool) -> None:
    program = f"""
        import asyncio, sys
        from pathlib import Path
        sys.path[:0] = {[str(Path(heavy.__file__).parents[1]), str(Path(__file__).parent)]!r}
        from test_processes import *

        async def main():
            async with opened(1) as executors:
                if {is_busy}:
                    await run(executors, "hang", {{"pids": {str(tmp_path / "pids")!r}}})
                Path({str(tmp_path / "pids")!r}).write_text(str(executors.processes.pids[0]))
                await asyncio.Event().wait()

        asyncio.run(main())
    """
    with (tmp_path / "errors").open("w") as errors:
        worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=errors)
    try:
        written = eventually_sync(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), 30)
    finally:
        worker.kill()
        worker.wait(60)
    first, *started = [int(word) for word in str(written).split()]
    for pid in started:  # what a handler started itself is nobody's child now
        os.kill(pid, signal.SIGKILL)
    eventually_sync(lambda: is_gone(first))
    assert (tmp_path / "errors").read_text() == ""
