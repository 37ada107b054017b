"""What a harness runs, counts, lists and raises."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bullpen import (
    Backoff,
    Cancel,
    Context,
    Handlers,
    JobCancelled,
    JobFailed,
    JobSpec,
    PayloadInvalid,
    ResultInvalid,
    SyncContext,
    UnknownJob,
)
from bullpen.errors import ConfigurationError
from bullpen.testing import Harness, HarnessError, SyncHarness, workbench

NOW = datetime(2027, 1, 1, tzinfo=UTC)


class Refused(Exception):
    pass


jobs = Handlers("q")


@jobs.handler("ok")
async def ok(number: int = 0) -> int:
    return number


@jobs.handler("refuse", attempts=1)
async def refuse(why: str) -> None:
    raise Refused(why)


@jobs.handler("leave")
async def leave() -> None:
    raise Cancel("no longer wanted")


@jobs.handler("call off")
async def call_off(ctx: Context[None], job_id: str) -> None:
    if not await ctx.client.queue("q").job(job_id).cancel("called off"):
        raise RuntimeError("there was nothing to cancel")


@jobs.handler("lie")
async def lie() -> int:
    return "text"  # type: ignore[return-value]


@jobs.handler("spawn")
async def spawn(ctx: Context[None]) -> None:
    await ctx.client.enqueue(spawn.job())


@jobs.handler("jitter", attempts=4, backoff=Backoff.fixed("1m", jitter=1.0))
async def jitter() -> None:
    raise ValueError


@jobs.handler("in a process", executor="process")
def in_a_process(ctx: SyncContext[None], numbers: set[int]) -> dict[str, float]:
    ctx.progress(1)
    return {"sum": sum(numbers)}


@jobs.handler("fails in a process", executor="process", attempts=2, backoff=Backoff.fixed("1s"))
def fails_in_a_process(ctx: SyncContext[None]) -> None:
    raise Refused(f"attempt {ctx.job.attempt}")


SCHEDULES = """
apiVersion: bullpen.dev/v1alpha1
kind: JobQueue
metadata: {name: q}
spec:
  worker: {image: registry.example.com/x:1, handlers: [x]}
  schedules:
    - {name: hourly, cron: "0 * * * *", job: ok, data: {number: 1}}
    - {name: often, every: 10m, job: ok, data: {number: 2}}
    - {name: never, every: 1m, job: ok, suspend: true}
"""


def declared(folder: Path, text: str = SCHEDULES) -> Path:
    file = folder / "queues.yaml"
    file.write_text(text)
    return file


# -- running and raising -------------------------------------------------------


async def test_run_says_of_a_job_that_another_cancels_that_it_was_cancelled() -> None:
    async with Harness(jobs, now=NOW) as harness:
        await harness.client.enqueue(call_off.job("it"), delay="1m")
        with pytest.raises(JobCancelled, match="called off"):
            await harness.run(ok.job().with_options(job_id="it", delay="1h"))


async def test_run_says_how_a_job_ended_last() -> None:
    async with Harness(jobs, now=NOW) as harness:
        handle = await harness.client.enqueue(refuse.job("a reason").with_options(job_id="it"))
        await harness.run_until_idle(raise_errors=False)
        await handle.retry()
        await handle.cancel("called off")
        with pytest.raises(JobCancelled, match="called off"):
            await harness.run(refuse.job("another").with_options(job_id="it"))


async def test_run_raises_the_handlers_own_error() -> None:
    async with Harness(jobs) as harness:
        with pytest.raises(Refused, match=r"^not today$") as caught:
            await harness.run(refuse.job("not today"))
        assert caught.traceback[-1].name == "refuse"
        with pytest.raises(Refused, match="attempt 2"):
            await harness.run(fails_in_a_process.job())
        with pytest.raises(JobCancelled, match="no longer wanted"):
            await harness.run(leave.job())
        with pytest.raises(ResultInvalid):
            await harness.run(lie.job())
        with pytest.raises(PayloadInvalid):
            await harness.run(JobSpec.by_name("ok", {"number": "x"}, queue="q"))


async def test_the_others_raise_a_group_of_final_failures() -> None:
    async with Harness(jobs) as harness:
        await harness.client.enqueue_many([refuse.job("one"), ok.job(), leave.job(), refuse.job("two")])
        with pytest.raises(ExceptionGroup, match="2 jobs failed for good") as caught:
            await harness.run_until_idle()
        assert [str(error) for error in caught.value.exceptions] == ["one", "two"]
        assert "('refuse' of queue 'q'), attempt 1 of 1" in caught.value.exceptions[0].__notes__[0]
        await harness.client.enqueue(refuse.job("three"), delay="1h")
        with pytest.raises(ExceptionGroup, match="a job failed for good"):
            await harness.advance("1h")
        await harness.client.enqueue(refuse.job("four"))
        assert await harness.run_until_idle(raise_errors=False) == 1
        assert await harness.run_until_idle() == 0
        assert len(harness.jobs(state="failed")) == 4


async def test_an_expired_job_counts_as_a_failure() -> None:
    async with Harness(jobs) as harness:
        await harness.client.queue("q").pause()
        await harness.client.enqueue(ok.job(), expires="1m")
        assert await harness.advance("2m") == 0
        await harness.client.queue("q").resume()
        with pytest.raises(ExceptionGroup) as caught:
            await harness.run_until_idle()
        (error,) = caught.value.exceptions
        assert isinstance(error, JobFailed)
        assert error.error_type == "bullpen.Expired"


async def test_a_name_that_nobody_knows_fails_after_an_hour_of_the_clock() -> None:
    async with Harness(jobs, now=NOW) as harness:
        with pytest.raises(UnknownJob, match="no handler of this worker knows the name 'nobody'"):
            await harness.run(JobSpec.by_name("nobody", {}, queue="q"))
        assert timedelta(hours=1) <= harness.now - NOW < timedelta(hours=1, minutes=1)


async def test_what_can_never_end_is_said() -> None:
    async with Harness(jobs) as harness:
        with pytest.raises(HarnessError, match=r"no handlers of queue 'other'; it has those of: q"):
            await harness.run(JobSpec.by_name("ok", {}, queue="other"))
        await harness.client.queue("q").pause()
        with pytest.raises(HarnessError, match="queue 'q' is paused"):
            await harness.run(ok.job())


async def test_jobs_without_end_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "MOST_STEPS", 50)
    async with Harness(jobs) as harness:
        await harness.client.enqueue(spawn.job())
        with pytest.raises(HarnessError, match="does a job enqueue itself for ever"):
            await harness.run_until_idle()


async def test_the_seed_decides_the_jitter() -> None:
    async def took(seed: int) -> timedelta:
        async with Harness(jobs, now=NOW, seed=seed) as harness:
            with pytest.raises(ValueError):  # noqa: PT011
                await harness.run(jitter.job())
            return harness.now - NOW

    assert await took(1) == await took(1) != await took(2)


async def test_process_handlers_run_here_with_json_there_and_back() -> None:
    async with Harness(jobs) as harness:
        handle = await harness.client.enqueue(in_a_process.job({1, 2}))
        assert await harness.run_until_idle() == 1
        info = await handle.info()
        assert (info.data, info.progress) == ({"numbers": [1, 2]}, 1)
        assert await handle.result(timeout="1s") == {"sum": 3.0}


# -- looking -------------------------------------------------------------------


async def test_jobs_are_listed_by_type_name_and_state() -> None:
    async with Harness(jobs, now=NOW) as harness:
        await harness.client.enqueue(ok.job(1))
        await harness.advance("1s")
        await harness.client.enqueue(ok.job(2), delay="1h")
        await harness.client.enqueue(leave.job())
        await harness.run_until_idle()
        await harness.client.queue("other").enqueue("ok", {})
        assert [info.data for info in harness.jobs(ok)] == [{"number": 1}, {"number": 2}]
        assert [info.queue for info in harness.jobs("ok")] == ["q", "q", "other"]
        assert [info.name for info in harness.jobs(state="cancelled")] == ["leave"]
        assert [info.data for info in harness.jobs(ok, state="delayed")] == [{"number": 2}]
        with pytest.raises(ValueError, match="there are waiting, prioritized"):
            harness.jobs(state="done")


# -- YAML ----------------------------------------------------------------------


async def test_schedules_of_the_yaml_follow_the_clock(tmp_path: Path) -> None:
    async with Harness(jobs, queues=declared(tmp_path), now=NOW + timedelta(minutes=5)) as harness:
        assert await harness.run_until_idle() == 1  # an interval begins at once
        assert await harness.advance("24h") == 24 + 24 * 6
        starts = [info.started_at for info in harness.jobs(ok, state="completed")]
        times = [info.enqueued_at for info in harness.jobs(ok, state="completed") if info.data == {"number": 1}]
        assert len(starts) == len(harness.jobs(ok, state="completed"))
        assert len(times) == 24
        ran = sorted(info.started_at for info in harness.jobs() if info.data == {"number": 1} and info.started_at)
        assert ran == [NOW + timedelta(hours=hour) for hour in range(1, 25)]
        next_run = next(info for info in harness.jobs(state="delayed") if info.data == {"number": 1})
        assert not await harness.client.queue("q").job(next_run.id).cancel()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SCHEDULES.replace("every: 10m", "every: soon"), r"queues\.yaml:9: "),
        ("kind: ConfigMap\napiVersion: v1\n", "declares no JobQueue"),
        (
            SCHEDULES.replace("name: q}", "name: p}"),
            "handlers of queue 'q', which the YAML does not declare; it declares: p",
        ),
    ],
)
def test_yaml_that_does_not_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Harness(jobs, queues=declared(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.yaml"):
        Harness(jobs, queues=tmp_path / "nothing.yaml")


async def test_a_queue_that_the_yaml_pauses_stays_paused(tmp_path: Path) -> None:
    text = SCHEDULES.partition("  schedules:")[0] + "  paused: true\n"
    async with Harness(jobs, queues=declared(tmp_path, text)) as harness:
        await harness.client.enqueue(ok.job())
        assert await harness.run_until_idle() == 0
        assert harness.jobs(state="waiting")


# -- wrong use -------------------------------------------------------------------


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigurationError, match=r"now: .* is not allowed; allowed: a datetime with a time zone"):
        Harness(jobs, now=datetime(2027, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigurationError, match="a harness takes Handlers objects, not Handler"):
        Harness(ok)  # type: ignore[arg-type]
    other = Handlers("q")
    other.handler("ok")(ok.function)
    with pytest.raises(ConfigurationError, match="two handlers of queue 'q' for job 'ok'"):
        Harness(jobs, other)


async def test_a_sync_harness_is_refused_on_a_loop() -> None:
    harness = SyncHarness(jobs)
    with pytest.raises(ConfigurationError, match="use Harness there"), harness:
        raise AssertionError


# -- lifespans ---------------------------------------------------------------------


@pytest.fixture
def opened() -> list[str]:
    return []


def with_lifespan(opened: list[str], *, group: bool = False) -> tuple[Handlers[str], Any]:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        opened.append("open")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(asyncio.Event().wait())
            yield "dependency"
            waiting.cancel()
        opened.append("closed")

    handlers = Handlers(lifespan=lifespan)

    @handlers.handler("say")
    async def say(ctx: Context[str]) -> str:
        return ctx.deps

    return handlers, say


async def test_lifespans_are_entered_once_and_left(opened: list[str]) -> None:
    handlers, say = with_lifespan(opened)
    also = Handlers("q", lifespan=handlers.lifespan)
    also.handler("other")(ok.function)
    async with Harness(handlers, also) as harness:
        handle = await harness.client.queue("any").enqueue(say.job())
        assert await handle.result(timeout="1s") == "dependency"
        assert opened == ["open"]
    assert opened == ["open", "closed"]


def test_lifespans_of_a_sync_harness(opened: list[str]) -> None:
    handlers, say = with_lifespan(opened)
    with SyncHarness(handlers) as harness:
        assert harness.client.queue("any").enqueue(say.job()).result(timeout="1s") == "dependency"
    assert opened == ["open", "closed"]
    with SyncHarness(handlers.with_deps("fake")) as harness:
        assert harness.client.queue("any").enqueue(say.job()).result(timeout="1s") == "fake"
    assert opened == ["open", "closed"]


async def test_a_lifespan_that_fails_comes_through() -> None:
    @contextmanager
    def broken() -> Generator[None]:
        raise Refused("no database")
        yield

    handlers = Handlers("q", lifespan=broken)
    handlers.handler("ok")(ok.function)
    with pytest.raises(Refused, match="no database"):
        async with Harness(handlers):
            raise AssertionError


# -- without a loop ----------------------------------------------------------------


def test_the_sync_harness_does_the_same(tmp_path: Path) -> None:
    with SyncHarness(jobs, queues=declared(tmp_path), now=NOW) as harness:
        assert harness.run_until_idle() == 1
        harness.client.enqueue(refuse.job("late"), delay="1h")
        with pytest.raises(ExceptionGroup):
            harness.advance("1h")
        assert harness.run(ok.job(3)) == 3
        with pytest.raises(Refused):
            harness.run(refuse.job("now"))
        assert harness.now == NOW + timedelta(hours=1)
        assert len(harness.jobs(refuse, state="failed")) == 2
        assert harness.advance("1h", raise_errors=False) == 1 + 6
