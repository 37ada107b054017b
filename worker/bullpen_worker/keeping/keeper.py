"""Keeps what runs ours: renews its locks, and takes back the jobs of workers that died.

Concurrency model: `Keeper.run` owns two tasks until it is cancelled, one that renews and one that checks. Neither
depends on a handler: they run in the supervisor's process, or beside an embedded worker in a thread with a loop of its
own, and read what runs from slot tables. Every call to Redis has an end: a renewal is given up after a third of the lock's
duration (the next one follows), a check after as long. What is `passing` (Redis away, refusing, loading) is tried
again for ever, while `leases` lets go of what was not renewed in time.

Renewal is one `extendLocks` for all jobs of all tables, at a third of the lock's duration; jobs that end sooner cost
nothing. A lock that is gone is told to the hooks once per run, after looking whether the slot still has that run: a job
that just finished has no lock either.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import msgpack

from bullpen import durations
from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script
from bullpen_worker.keeping import leases, recovery
from bullpen_worker.keeping.leases import Leases, Run
from bullpen_worker.keeping.table import SlotTable

NEVER_STALLED: Final = 1_000_000_000
"""BullMQ's own limit of stalls, out of reach: crashes are counted here, and slow networks are no crashes."""

LEAST_LOCK_MS: Final = 1_000
LEAST_CHECK_MS: Final = 100
"""What a policy may say at least: locks are looked at twelve times within their duration, and every worker of a queue checks."""

_ROUNDS: Final = 3
_DEMOTED_AT_ONCE: Final = 2_000  # some 10 ms of Redis
_AFTER_FAILURE_S: Final = 0.5
_SLACK_MS: Final = 10
_CONFIRM_S: Final = 0.1


class Redis(Protocol):
    """What the keeper needs of a link to Redis."""

    async def eval(self, script: Script, keys: Sequence[str | bytes], args: Sequence[str | bytes | int]) -> object:
        """Run a script; load it first where Redis does not have it."""


class KeeperHooks(Protocol):
    """Who is told. Called in the keeper's loop; must return at once."""

    def lost(self, run: Run) -> None:
        """The lock of this run is gone: its attempt must end, its result is void."""

    def renewed(self, kept: int, lost: int) -> None:
        """So many locks were renewed, or found lost."""

    def renewal_failed(self, error: Exception | None) -> None:
        """Redis did not answer a renewal; the next follows. None for no answer in time."""

    def recovered(self, decisions: Sequence[recovery.Decision]) -> None:
        """These jobs were taken back."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The policy's `recovery`, in milliseconds, and what it says of jobs without a priority."""

    lock_ms: int = 10_000
    check_ms: int = 3_000
    max_crashes: int = 3
    demote_to: int | None = None
    """Where jobs without a priority are filed: the default level's number. None: they are served first."""

    @classmethod
    def of_policy(cls, doc: str) -> "Terms":
        """Read them from the policy's document; what it does not say, or what cannot be read, is as built in.

        Read here without the models, which would cost the supervisor their memory; they checked what was written.
        """
        try:
            policy = json.loads(doc or "{}")
            found = policy.get("recovery") or {}
            levels = policy.get("priorities") or {}
            demote_to = None
            if levels and levels.get("unprioritized", "Demote") == "Demote":
                demote_to = int(levels["levels"][levels["default"]])
            terms = cls(
                durations.parse_ms(found.get("lockDuration", "10s")),
                durations.parse_ms(found.get("checkInterval", "3s")),
                int(found.get("maxCrashes", 3)),
                demote_to,
            )
        except (ValueError, OverflowError, RecursionError, TypeError, AttributeError, KeyError):
            return cls()
        return terms if terms.lock_ms >= LEAST_LOCK_MS and terms.check_ms >= LEAST_CHECK_MS else cls()


def extend_locks() -> Script:
    """BullMQ's script that renews many locks."""
    return lua.bullmq("extendLocks-1")


def recover_script() -> Script:
    """Our script that takes back what the dead ran, ending in BullMQ's own."""
    moving = f"local function moveStalledJobsToWait(KEYS, ARGV)\n{lua.bullmq('moveStalledJobsToWait-9').source}\nend\n"
    return lua.script("recover", moving + lua.ours("recover-10").source, 10)


class Keeper:
    """Renews the locks of all watched tables, and checks for the dead, on one queue.

    `name` is the worker's (`recovery.worker_name`), `passing` are the errors that are waited out, `random` gives a number
    from 0 to 1 that spreads the checks of many workers. Change `terms` at any time; it holds from the next round on.
    """

    def __init__(
        self,
        redis: Redis,
        keys: QueueKeys,
        *,
        name: str,
        hooks: KeeperHooks,
        passing: tuple[type[Exception], ...],
        terms: Terms = Terms(),
        random: Callable[[], float] = lambda: 0.0,
        clock_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._name = name
        self._hooks = hooks
        self._passing: tuple[type[Exception], ...] = (TimeoutError, *passing)
        self._random = random
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._terms = terms
        self._leases = Leases(terms.lock_ms)
        self._changed = asyncio.Event()
        self._tables: list[SlotTable] = []
        self._extend = extend_locks()
        self._recover = recover_script()
        self._recover_keys = (
            keys.stalled, keys.wait, keys.active, keys.stalled_check, keys.meta, keys.paused, keys.marker, keys.events,
            keys.repeat, keys.workers,
        )  # fmt: skip

    @property
    def terms(self) -> Terms:
        """What holds now."""
        return self._terms

    @terms.setter
    def terms(self, terms: Terms) -> None:
        self._terms = terms
        self._leases.lock_ms = terms.lock_ms
        self._changed.set()

    def watch(self, table: SlotTable) -> None:
        """Renew what `table` says runs."""
        self._tables.append(table)

    def forget(self, table: SlotTable) -> None:
        """Renew it no longer."""
        with contextlib.suppress(ValueError):
            self._tables.remove(table)

    def runs(self) -> list[Run]:
        """All that runs now, in all tables."""
        return [Run.of(table, view) for table in self._tables for view in table.views()]

    async def run(self) -> None:
        """Renew and check until cancelled; raises what is not `passing`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_for_ever())
            tasks.create_task(self._check_for_ever())

    # -- locks ---------------------------------------------------------------

    async def _renew_for_ever(self) -> None:
        while True:
            self._changed.clear()
            await self.renew()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._leases.tick_ms / 1000):
                    await self._changed.wait()

    async def renew(self) -> None:
        """Look once: tell what was lost, renew what is due."""
        now_ms = self._clock_ms()
        due, lost = self._leases.look(self.runs(), now_ms)
        for run in lost:
            self._hooks.lost(run)
        if lost:
            self._hooks.renewed(0, len(lost))
        if not due:
            return
        lock_ms = self._terms.lock_ms
        tokens = msgpack.packb([run.view.token for run in due], use_bin_type=False)
        ids = msgpack.packb([run.view.job_id for run in due], use_bin_type=False)
        # As soon as the oldest of them is too old, that must be noticed, whether Redis answers or not.
        held_ms = min(self._leases.holds_ms(run) for run in due)
        patience_ms = held_ms // leases.TICKS_PER_LOCK if self._leases_are_old(due, now_ms) else held_ms // 3
        try:
            async with asyncio.timeout(patience_ms / 1000):
                reply = await self._redis.eval(
                    self._extend, [self._keys.stalled], [self._keys.base, tokens, ids, lock_ms]
                )
        except TimeoutError:
            self._hooks.renewal_failed(None)
            return
        except self._passing as error:
            self._hooks.renewal_failed(error)
            return
        failed = set(cast("list[bytes]", reply))
        kept = [run for run in due if run.view.job_id not in failed]
        self._leases.renewed(kept, now_ms, lock_ms)
        suspects = [run for run in due if run.view.job_id in failed and run.goes_on]
        if suspects:
            # Finished, most likely, and the answer to that is on its way to the process that runs it.
            await asyncio.sleep(min(_CONFIRM_S, lock_ms / leases.TICKS_PER_LOCK / 1000))
        gone = [run for run in suspects if run.goes_on and self._leases.lose(run)]
        for run in gone:
            self._hooks.lost(run)
        self._hooks.renewed(len(kept), len(gone))

    def _leases_are_old(self, due: Iterable[Run], now_ms: int) -> bool:
        return any(self._leases.age_ms(run, now_ms) > self._leases.holds_ms(run) // 2 for run in due)

    # -- the dead ------------------------------------------------------------

    async def _check_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._terms.lock_ms / 1000):
                    pause_ms = await self.check()
            except self._passing:
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            await asyncio.sleep(pause_ms / 1000)

    async def check(self) -> int:
        """Check once, unless another worker has done so; returns in how many ms to check again."""
        terms = self._terms
        spread_ms = self._random() * terms.check_ms / 8
        decided: dict[str, recovery.Decision] = {}
        for left in reversed(range(_ROUNDS)):
            kind, *rest = await self._ask(decided.values(), last=left == 0)
            if kind == b"later":
                return max(cast("int", rest[0]), 0) + _SLACK_MS + int(spread_ms)
            if kind == b"done":
                moved = {raw.decode(errors="surrogateescape") for raw in cast("list[bytes]", rest[0])}
                if moved:
                    self._hooks.recovered(
                        [decided.get(job_id) or recovery.Decision(job_id, "") for job_id in sorted(moved)]
                    )
                break
            now_ms, jobs, workers = cast(
                "tuple[int, list[list[bytes]], list[tuple[bytes, int, int, int, bytes]]]", tuple(rest)
            )
            stalled, holders = recovery.read_dead(now_ms, jobs, workers)
            decisions = recovery.judge_all(
                stalled, holders, own_name=self._name, lock_ms=terms.lock_ms, max_crashes=terms.max_crashes
            )
            decided = {decision.id: decision for decision in decisions}
        if terms.demote_to is not None:
            await self.demote(terms.demote_to)
        return terms.check_ms + _SLACK_MS

    async def demote(self, level: int) -> int:
        """File jobs that came without a priority under `level`; returns how many. One worker does so each interval."""
        keys = self._keys
        reply = await self._redis.eval(
            lua.ours("demote-5"),
            [keys.wait, keys.prioritized, keys.priority_counter, keys.meta, keys.marker],
            [keys.base, level, _DEMOTED_AT_ONCE],
        )
        return cast("int", reply)

    async def _ask(self, decisions: Iterable[recovery.Decision], *, last: bool) -> list[object]:
        wire = [decision.wire() for decision in decisions]
        packed = msgpack.packb(wire, unicode_errors="surrogateescape") if wire else b""
        reply = await self._redis.eval(
            self._recover,
            self._recover_keys,
            [NEVER_STALLED, self._keys.base, self._wall_ms(), self._terms.check_ms, packed, "1" if last else ""],
        )
        return cast("list[object]", reply)
