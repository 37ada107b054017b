"""The workers of one JobQueue as processes: started, told to go, watched.

Each worker is `bullpen worker` in a process of its own, as it would be in a pod; its output is read line by line by a task
of the fleet's task group. To shrink, the least busy are told to stop (SIGTERM): they take no new job and go when theirs
are done, so no job is cut short. A worker that ends by itself is started again, later each time. When this process is
killed, its workers end too (`bullpen_cli.local.leash`): they would wait for Redis for ever, and work for the next run.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bullpen_cli.local.leash import Leash

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
HEALTHY_AFTER_SECONDS: Final = 10.0
"""A worker that lived so long is not in a crash loop: the next start comes at once again."""

LONGEST_LINE_BYTES: Final = 1 << 20

State = Literal["starting", "ready", "stopping"]


@dataclass
class LocalWorker:
    """One worker process."""

    name: str
    process: asyncio.subprocess.Process
    leash: Leash
    started: float
    state: State = "starting"
    busy: int = 0
    generation: int = 0
    first_news: str = ""
    last_news: str = ""
    """What it wrote that is no routine: the first tells why it did not start, the last why it ended."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid


@dataclass(frozen=True)
class WorkerCommand:
    """How a worker of the queue is started. `arguments` stand behind ``bullpen worker``."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


class Fleet:
    """The workers of one JobQueue. Belongs to one event loop, and to one task group for as long as it lives.

    `heard` is told each line that a worker writes, and gives back what of it is no routine.
    """

    def __init__(
        self,
        queue: str,
        command: WorkerCommand,
        tasks: asyncio.TaskGroup,
        heard: Callable[[str], str | None],
        *,
        grace_seconds: float,
    ) -> None:
        self.queue = queue
        self.command = command
        self.grace_seconds = grace_seconds
        self.trouble: str | None = None
        """Why workers cannot start, in a sentence; None while they can."""
        self.failed_starts = 0
        """How many workers in a row ended before they took jobs."""
        self._tasks = tasks
        self._heard = heard
        self._workers: dict[str, LocalWorker] = {}
        self._serial = 0
        self._generation = 0
        self._wanted = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self._closing = False

    @property
    def workers(self) -> list[LocalWorker]:
        """All workers whose process lives, those that are on their way out included."""
        return list(self._workers.values())

    @property
    def staying(self) -> list[LocalWorker]:
        """The workers that were not told to go."""
        return [worker for worker in self._workers.values() if worker.state != "stopping"]

    @property
    def starting(self) -> int:
        """How many have been started and take no jobs yet."""
        return sum(worker.state == "starting" for worker in self._workers.values())

    @property
    def cannot_start(self) -> str:
        """Why no worker can start now; empty while one can, or when it is time to try again."""
        return self.trouble or "the last worker failed" if time.monotonic() < self._not_before else ""

    async def scale(self, wanted: int) -> None:
        """Make it so many: start what is missing, tell the least busy to go."""
        if self._closing:
            return
        self._wanted = wanted
        outdated = [worker for worker in self.staying if worker.generation != self._generation]
        current = [worker for worker in self.staying if worker.generation == self._generation]
        missing = wanted - len(current)
        if missing > 0 and time.monotonic() >= self._not_before:
            for _ in range(missing):
                await self._start()
        # Those of an older generation go once their successors work, so that a reload leaves no gap.
        if outdated and not any(worker.state == "starting" for worker in self.staying if worker not in outdated):
            for worker in outdated:
                self._tell_to_go(worker)
        surplus = len(self.staying) - max(wanted, 0) if not outdated else 0
        if surplus > 0:
            # Those that start are the cheapest to lose, then the idle, then the youngest.
            by_cost = sorted(
                self.staying, key=lambda worker: (worker.state != "starting", worker.busy, -worker.started)
            )
            for worker in by_cost[:surplus]:
                self._tell_to_go(worker)

    def replace(self, command: WorkerCommand) -> None:
        """Start the next workers by this command, and those that run once more: the code or the YAML changed."""
        self.command = command
        self._generation += 1
        self._not_before = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self.failed_starts = 0
        self.trouble = None

    async def close(self) -> int:
        """Tell all to go, wait for the grace period, end who is left; give how many had to be ended."""
        self._closing = True
        for worker in self.workers:
            self._tell_to_go(worker)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.grace_seconds + 5):
                for worker in self.workers:
                    await worker.gone.wait()
        stubborn = self.workers
        for worker in stubborn:
            self._signal(worker, signal.SIGKILL)
        for worker in stubborn:
            await worker.gone.wait()
        return len(stubborn)

    def hurry(self) -> None:
        """Tell all once more: give back now what you run."""
        for worker in self.workers:
            # Another signal than the first: two of the same kind at once arrive as one.
            self._signal(worker, signal.SIGINT)

    async def _start(self) -> None:
        self._serial += 1
        name = f"{self.queue}-{os.getpid()}-{self._serial}"
        leash = Leash((sys.executable, "-m", "bullpen_cli", "worker", "--name", name, *self.command.arguments))
        try:
            process = await asyncio.create_subprocess_exec(
                *leash.command,
                env=dict(self.command.environment),
                stdin=leash.held_by_it,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LONGEST_LINE_BYTES,
                # Ctrl-C in the terminal is for local mode alone, which tells its workers in order.
                start_new_session=True,
            )
        except BaseException:
            leash.let_go()
            raise
        finally:
            leash.begin()
        worker = LocalWorker(name, process, leash, time.monotonic(), generation=self._generation)
        self._workers[name] = worker
        self._tasks.create_task(self._watch(worker), name=f"watch {name}")

    async def _watch(self, worker: LocalWorker) -> None:
        """Read the worker's lines until it is gone, and draw the conclusions."""
        try:
            async for line in lines_of(worker.process):
                if news := self._heard(line):
                    worker.first_news = worker.first_news or news
                    worker.last_news = news
            code = await worker.process.wait()
        finally:
            if worker.process.returncode is None:
                self._signal(worker, signal.SIGKILL)
            worker.leash.let_go()
            self._workers.pop(worker.name, None)
            worker.gone.set()
        if worker.state != "stopping":
            self._lost(worker, code)

    def _lost(self, worker: LocalWorker, code: int) -> None:
        """A worker ended without being told to."""
        lived = time.monotonic() - worker.started
        why = worker.last_news
        if worker.state == "starting":
            self.failed_starts += 1
            why = worker.first_news
        if lived >= HEALTHY_AFTER_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        how = f"exit {code}" if code >= 0 else f"signal {-code}"
        self.trouble = (
            f"a worker ended by itself ({how}) after {lived:.1f} s: {' '.join(why.split()) or 'it said nothing'}"
        )
        self._not_before = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def ready(self, name: str, busy: int) -> None:
        """Note that the worker takes jobs, and how many it runs."""
        worker = self._workers.get(name)
        if worker is None:
            return
        worker.busy = busy
        if worker.state == "starting":
            worker.state = "ready"
            self.failed_starts = 0
            self.trouble = None

    def _tell_to_go(self, worker: LocalWorker) -> None:
        if worker.state != "stopping":
            worker.state = "stopping"
            self._signal(worker, signal.SIGTERM)

    def _signal(self, worker: LocalWorker, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(which)


async def lines_of(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    """Give each line that the process writes, to its end. Of one longer than the process' limit the beginning is dropped."""
    stdout = process.stdout
    while stdout is not None:
        try:
            raw = await stdout.readline()
        except ValueError:
            continue
        if not raw:
            return
        yield raw.decode(errors="replace")
