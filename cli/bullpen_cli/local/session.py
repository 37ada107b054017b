"""Local mode from its start to its end: declare the queues, follow the work with workers, stop in order.

Concurrency model: `Session.run` owns one task group. In it live the scaling loop (reads all queues a few times a second,
decides, scales the fleets, draws), a task for each worker that reads its output, the watch for changed files, and the
command that the user asked to run beside. The loop ends when it is told to (`stop`) or when all is idle and that was
asked for; then the fleets are closed, the rest is cancelled, and the account is closed. What dies unexpectedly takes the
session down.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bullpen.clients.shell import RedisShell, Shell
from bullpen.errors import BullpenError
from bullpen.queue.keys import QueueKeys
from bullpen.queue.observation import Observe, Reading
from bullpen.queue.operations.jobs import cancelled_reason
from bullpen.queue.operations.queues import ListJobs
from bullpen.redis.settings import RedisSettings
from bullpen.scaling import Decision, History, Observation, decide
from bullpen_cli.local import backend, view
from bullpen_cli.local.fleet import LONGEST_LINE_BYTES, Fleet, lines_of
from bullpen_cli.local.journal import LONGEST_LINE, Journal, Line
from bullpen_cli.local.plan import LocalQueue
from bullpen_cli.local.view import Picture, QueueRow, View

TICK_SECONDS: Final = 0.2
HEARTBEATS_EVERY_SECONDS: Final = 0.5
STARTUP_GUESS_MS: Final = 1_500
"""What a worker's start takes here until one was seen: delayed jobs that are due within it count as work."""

IDLE_HORIZON_MS: Final = 300_000
"""``--until-idle`` waits for jobs that are due within so long, retries that back off among them."""

IDLE_READINGS: Final = 3
FAILED_AT_ONCE: Final = 50
"""So many failed jobs are read at once, each whole, to tell those that were cancelled."""

HOPELESS_STARTS: Final = 3
"""``--until-idle`` ends when so many workers of a queue in a row could not start: it would wait for ever."""


@dataclass
class Charge:
    """One queue in the session's care."""

    queue: LocalQueue
    fleet: Fleet | None
    history: History = field(default_factory=History)
    reading: Reading | None = None
    decision: Decision | None = None
    trouble: str | None = None
    failed_before: int | None = None


@dataclass(frozen=True)
class Beside:
    """A command to run beside the workers, once the queues are declared."""

    words: Sequence[str]
    environment: Mapping[str, str]


Reload = Callable[[], Mapping[str, LocalQueue]]
"""Reads the YAML again. Raises `BullpenError` when it has mistakes; then what runs goes on."""


class Session:
    """Local mode. Belongs to one event loop; `run` may be called once."""

    def __init__(
        self,
        queues: Mapping[str, LocalQueue],
        settings: RedisSettings,
        shown: View,
        *,
        redis_name: str,
        beside: Beside | None = None,
        until_idle: bool = False,
        changes: Callable[[], Coroutine[object, object, set[str]]] | None = None,
        reload: Reload | None = None,
    ) -> None:
        self.journal = Journal(queues)
        self._plans = dict(queues)
        self._settings = settings
        self._view = shown
        self._redis_name = redis_name
        self._beside = beside
        self._until_idle = until_idle
        self._changes = changes
        self._reload = reload
        self._charges: dict[str, Charge] = {}
        self._stop = asyncio.Event()
        self._stops = 0
        self._idle_readings = 0
        self._beside_code: int | None = None if beside else 0
        self._hopeless = False
        self._began = time.monotonic()
        self._heartbeats_at = float("-inf")

    def stop(self) -> None:
        """End in order: workers finish what they run. A second call has them give it back at once. Not thread-safe."""
        self._stops += 1
        if self._stops == 1:
            self._view.say("Stopping: workers finish what they run. Once more, and they give it back.", style="bold")
            self._stop.set()
        else:
            for charge in self._charges.values():
                if charge.fleet is not None:
                    charge.fleet.hurry()

    async def run(self) -> int:
        """Work until stopped, or idle where that was asked for. Gives the exit code: 1 where jobs failed for good."""
        shell = RedisShell(self._settings, timeout=backend.ANSWER_SECONDS)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(shell.close)
            await backend.declare_all(shell, self._plans.values())
            try:
                async with asyncio.TaskGroup() as tasks:
                    helpers = self._start(shell, tasks)
                    await self._follow(shell)
                    for task in helpers:
                        task.cancel()
                    await self._close()
            finally:
                self._view.close()
            left = await self._left(shell)
            failed = self._until_idle and any([await self._has_failed(shell, each) for each in self._charges.values()])
        for sentence in view.summary(left):
            self._view.say(sentence)
        return 1 if self._beside_code or self._hopeless or failed or self._view.gone else 0

    def report(self) -> dict[str, object]:
        """Give the account as plain JSON: by queue, what was done and what is left."""
        return {"seconds": round(time.monotonic() - self._began, 3), "queues": self.journal.report()}

    def write_report(self, path: Path) -> None:
        """Write the account to a file."""
        path.write_text(json.dumps(self.report(), indent=2) + "\n", encoding="utf-8")

    # -- start and end -----------------------------------------------------------------------------------------

    def _start(self, shell: Shell, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        for queue in self._plans.values():
            self._take_charge(queue, tasks)
        helpers = []
        if self._beside is not None:
            helpers.append(tasks.create_task(self._run_beside(self._beside), name="beside"))
        if self._changes is not None:
            helpers.append(tasks.create_task(self._watch_files(shell, tasks), name="watch files"))
        return helpers

    def _take_charge(self, queue: LocalQueue, tasks: asyncio.TaskGroup) -> None:
        self._charges[queue.name] = Charge(queue, self._make_fleet(queue, tasks))

    def _make_fleet(self, queue: LocalQueue, tasks: asyncio.TaskGroup) -> Fleet | None:
        def heard(raw: str, source: str = queue.name) -> str | None:
            line = self.journal.read(source, raw)
            self._view.hear(line)
            return None if line.routine else line.text

        if queue.command is None:
            return None
        return Fleet(queue.name, queue.command, tasks, heard, grace_seconds=queue.grace_seconds)

    async def _close(self) -> None:
        fleets = [charge.fleet for charge in self._charges.values() if charge.fleet is not None]
        drawing = asyncio.create_task(self._draw_until_cancelled())
        try:
            ended = sum(await asyncio.gather(*(fleet.close() for fleet in fleets)))
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)
        if ended:
            self._view.say(f"{ended} workers did not end in time and were killed; their jobs run again.", style="red")
        self._draw()

    async def _draw_until_cancelled(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(TICK_SECONDS)

    async def _left(self, shell: Shell) -> dict[str, str]:
        left = {}
        for name, charge in self._charges.items():
            try:
                reading = await observe(shell, charge.queue.keys, IDLE_HORIZON_MS)
            except BullpenError:
                left[name] = "an unknown number of jobs"
                continue
            charge.reading = reading
            waiting = reading.backlog + reading.active
            parts = [f"{waiting} waiting" if waiting else "", f"{reading.delayed} delayed" if reading.delayed else ""]
            left[name] = ", ".join(part for part in parts if part)
        return left

    async def _has_failed(self, shell: Shell, charge: Charge) -> bool:
        """Whether jobs of the queue failed for good meanwhile, here or at others' workers. Cancelled ones lie among the failed."""
        account = self.journal.accounts.get(charge.queue.name)
        if account is not None and account.failed:
            return True
        if charge.reading is None or charge.failed_before is None:
            return False
        new = charge.reading.failed - charge.failed_before
        for start in range(0, new, FAILED_AT_ONCE):
            page = ListJobs(charge.queue.keys, "failed", start, min(FAILED_AT_ONCE, new - start), newest_first=True)
            try:
                found = await backend.perform(shell, page)
            except BullpenError:
                return True
            if any(cancelled_reason(each.job.failed_reason or "") is None for each in found):
                return True
        return False

    # -- the loop ----------------------------------------------------------------------------------------------

    async def _follow(self, shell: Shell) -> None:
        """Observe, decide, scale and draw, until told to stop, idle, or seen by nobody any more."""
        while not (self._stop.is_set() or self._view.gone):
            await asyncio.gather(*(self._look(shell, charge) for charge in self._charges.values()))
            await self._hear_heartbeats(shell)
            for charge in tuple(self._charges.values()):  # changed YAML may be taken up meanwhile
                await self._scale(charge)
            self._draw()
            if self._until_idle and (self._is_hopeless() or await self._is_idle(shell)):
                return
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _look(self, shell: Shell, charge: Charge) -> None:
        try:
            charge.reading = await observe(shell, charge.queue.keys, STARTUP_GUESS_MS)
        except BullpenError as error:
            charge.reading = None
            charge.trouble = f"cannot be read: {error}"
            return
        charge.trouble = None
        if charge.failed_before is None:
            charge.failed_before = charge.reading.failed

    async def _hear_heartbeats(self, shell: Shell) -> None:
        """Learn from the workers' own entries in Redis who takes jobs, and how many each runs."""
        now = time.monotonic()
        if now - self._heartbeats_at < HEARTBEATS_EVERY_SECONDS:
            return
        self._heartbeats_at = now
        for charge in tuple(self._charges.values()):
            fleet = charge.fleet
            if fleet is None:
                continue
            try:
                beats = await backend.perform(shell, backend.ReadWorkers(charge.queue.keys))
            except BullpenError:
                continue
            for name, busy in beats.items():
                fleet.ready(name, busy)

    async def _scale(self, charge: Charge) -> None:
        fleet = charge.fleet
        if fleet is None:
            return
        now_ms = time.time_ns() // 1_000_000
        staying = len(fleet.staying)
        if charge.reading is None:
            observation = Observation.unknown(at_ms=now_ms, because=charge.trouble or "unreadable", replicas=staying)
        else:
            observation = charge.reading.observed(
                replicas=staying,
                ready=staying - fleet.starting,
                starting=fleet.starting,
                busy=sum(worker.busy > 0 for worker in fleet.staying),
                startup_ms=STARTUP_GUESS_MS,
                cannot_start=fleet.cannot_start,
            )
        decision = decide(observation, charge.queue.policy, charge.history, now_ms)
        charge.decision, charge.history = decision, decision.history
        await fleet.scale(decision.replicas)

    def _is_hopeless(self) -> bool:
        """Whether the workers of a queue cannot start."""
        for name, charge in self._charges.items():
            if charge.fleet is not None and charge.fleet.failed_starts >= HOPELESS_STARTS:
                self._hopeless = True
                self._view.say(f"{name}: its workers cannot start: {charge.fleet.trouble}", style="red")
        return self._hopeless

    async def _is_idle(self, shell: Shell) -> bool:
        """Whether nothing waits, runs or is due soon, in several readings, and the command beside has ended."""
        if self._beside_code is None:
            self._idle_readings = 0
            return False
        for charge in tuple(self._charges.values()):
            reading = charge.reading
            if reading is None or (reading.backlog and not reading.paused) or reading.active:
                self._idle_readings = 0
                return False
            try:
                ahead = await observe(shell, charge.queue.keys, IDLE_HORIZON_MS)
            except BullpenError:  # Redis is away: nothing is known
                ahead = None
            if ahead is None or ahead.due > ahead.scheduled:
                self._idle_readings = 0
                return False
        self._idle_readings += 1
        return self._idle_readings >= IDLE_READINGS

    def _draw(self) -> None:
        self._view.show(
            Picture(
                redis=self._redis_name,
                rows=[self._row(charge) for charge in self._charges.values()],
                seconds=time.monotonic() - self._began,
                note="stopping …" if self._stops else "",
            )
        )

    def _row(self, charge: Charge) -> QueueRow:
        account = self.journal.accounts.get(charge.queue.name)
        reading, fleet, decision = charge.reading, charge.fleet, charge.decision
        workers = fleet.workers if fleet else []
        reason = decision.message if decision else ""
        return QueueRow(
            queue=charge.queue.name,
            waiting=reading.backlog if reading else None,
            delayed=reading.delayed if reading else None,
            active=reading.active if reading else None,
            completed=account.completed if account else 0,
            retried=account.retried if account else 0,
            failed=account.failed if account else 0,
            workers=sum(worker.state == "ready" for worker in workers),
            starting=sum(worker.state == "starting" for worker in workers),
            stopping=sum(worker.state == "stopping" for worker in workers),
            wanted=decision.replicas if decision else 0,
            most=charge.queue.most,
            reason=reason if fleet else "no worker in YAML: its workers are somebody else's",
            trouble=charge.trouble or (fleet.trouble if fleet else None),
        )

    # -- what happens beside -----------------------------------------------------------------------------------

    async def _run_beside(self, beside: Beside) -> None:
        """Run the user's command, show what it writes, and keep its exit code."""
        name = Path(beside.words[0]).name
        try:
            process = await asyncio.create_subprocess_exec(
                *beside.words,
                env={**os.environ, **beside.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LONGEST_LINE_BYTES,
            )
        except OSError as error:
            self._view.say(f"{name} cannot be run: {error.strerror}", style="red")
            self._beside_code = 1
            self._stop.set()
            return
        try:
            async for line in lines_of(process):
                self._view.hear(Line(name, line.rstrip()[:LONGEST_LINE]))
            self._beside_code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if self._beside_code:
            self._view.say(f"{name} ended with exit code {self._beside_code}", style="red")
            self._stop.set()

    async def _watch_files(self, shell: Shell, tasks: asyncio.TaskGroup) -> None:
        """Take up changed YAML and restart workers whose code changed."""
        assert self._changes is not None  # noqa: S101 - the task is not started without
        while True:
            try:
                changed = await self._changes()
            except (OSError, RuntimeError) as error:  # the system's limit of watches, a folder that is gone
                self._view.say(f"Changes of files are not noticed any more: {error}", style="yellow")
                return
            yaml = any(path.endswith((".yaml", ".yml")) for path in changed)
            plans = self._plans
            if yaml and self._reload is not None:
                try:
                    plans = dict(self._reload())
                    await backend.declare_all(shell, plans.values())
                except BullpenError as error:
                    self._view.say(f"The YAML has mistakes; what runs goes on as before.\n{error}", style="red")
                    continue
            await self._take_up(plans, tasks, code=any(path.endswith(".py") for path in changed))

    async def _take_up(self, plans: Mapping[str, LocalQueue], tasks: asyncio.TaskGroup, *, code: bool) -> None:
        what = "the code" if code else "the YAML"
        for name, queue in plans.items():
            charge = self._charges.get(name)
            if charge is None:
                self._take_charge(queue, tasks)
                self._view.say(f"{name}: new")
                continue
            before, charge.queue = charge.queue, queue
            fleet = charge.fleet
            if fleet is None:
                charge.fleet = self._make_fleet(queue, tasks)
            elif queue.command is None:
                charge.fleet = None
                self._view.say(f"{name}: no longer has a worker in the YAML")
                await fleet.close()
            else:
                fleet.grace_seconds = queue.grace_seconds
                if code or queue.command != before.command:
                    fleet.replace(queue.command)
                    self._view.say(f"{name}: {what} changed, workers start anew")
        for name in self._charges.keys() - plans.keys():
            gone = self._charges.pop(name)
            if gone.fleet is not None:
                await gone.fleet.close()
            self._view.say(f"{name}: no longer in the YAML; its jobs stay in Redis")
        self._plans = dict(plans)


async def observe(shell: Shell, keys: QueueKeys, horizon_ms: int) -> Reading:
    """Read one queue. Raises `BullpenError` when Redis does not answer, or not as a queue does."""
    return await backend.perform(shell, Observe(keys, horizon_ms))
