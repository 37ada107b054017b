"""A worker's own line to Redis, apart from the one that jobs use: locks, recovery, beats, orders, handing back.

Concurrency model: `Custody.run` owns two links (one for commands, one that listens for nudges), the `Keeper` and the `Orders`
until it is cancelled. It lives in the loop of the supervisor's process; an embeddable worker runs it in a thread of its
own (`CustodyThread`), so that a handler that blocks the loop of the application does not lose its locks.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol, cast

import msgpack

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script
from bullpen.redis.failures import ConnectFailed, ConnectionLost, ReplyError
from bullpen.redis.link import Link, LinkState
from bullpen.redis.settings import RedisSettings
from bullpen_worker.keeping import recovery
from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.keeping.keeper import Keeper, Terms
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.orders import Orders, Source
from bullpen_worker.keeping.recovery import Crashes, Death, Decision
from bullpen_worker.keeping.table import SlotTable

PASSING: Final = (ConnectionLost, ConnectFailed, ReplyError)
"""What an outage of Redis looks like. An error reply is one too: it may be loading, full, or asking for a new password."""

_PAUSE_S: Final = 0.2
_ANSWER_S: Final = 5.0


class CustodyHooks(Protocol):
    """Who is told. Called in custody's loop; must return at once."""

    def lost(self, run: Run) -> None:
        """The lock of this run is gone: its attempt must end, its result is void."""

    def cancel(self, run: Run, reason: str) -> None:
        """Somebody asks for this run's job to be cancelled."""

    def retire(self, *, retiring: bool) -> None:
        """Take no new jobs; or take some again."""

    def limited(self, delay_ms: int) -> None:
        """Start nothing of the queue for so long. Said again while it holds, and before `policy`."""

    def policy(self, rev: str, doc: str) -> None:
        """The queue has this policy; both are empty when it has none."""

    def renewed(self, kept: int, lost: int) -> None:
        """So many locks were renewed, or found lost."""

    def recovered(self, decisions: Sequence[Decision]) -> None:
        """These jobs of dead workers wait again."""

    def trouble(self, doing: str, error: Exception | None) -> None:
        """Redis did not answer (None: in time), or refused; it is tried again."""


@dataclass(frozen=True, slots=True)
class Released:
    """What became of a run whose process is gone: back to wait, or gone already."""

    run: Run
    death: Death
    given_back: bool
    quarantined: bool


def give_back_script() -> Script:
    """Our script that puts a running job back to wait, around BullMQ's own."""
    moving = lua.bullmq("moveJobFromActiveToWait-9").source
    source = f"local function moveJobFromActiveToWait(KEYS, ARGV)\n{moving}\nend\n{lua.ours('give-back-9').source}"
    return lua.script("give-back", source, 9)


class Custody:
    """Everything that keeps one worker's jobs its own; see the module.

    `name` is the worker's (`recovery.worker_name`), `entry` tells what others see of it.
    """

    def __init__(
        self,
        settings: RedisSettings,
        keys: QueueKeys,
        *,
        name: str,
        hooks: CustodyHooks,
        entry: Callable[[], Entry],
        terms: Terms | None = None,
    ) -> None:
        self.name = name
        self._keys = keys
        self._hooks = hooks
        client = keys.client_name(f":k:{name}")
        self._link = Link(settings, patient=True, name=client, on_state=self._note_state)
        self._ear = Link(settings, patient=True, name=client, blocking=True)
        self.keeper = Keeper(
            self._link,
            keys,
            name=name,
            hooks=_Told(self),
            passing=PASSING,
            terms=terms or Terms(),
            random=random.random,
        )
        self.orders = Orders(
            self._link, self._ear, keys, name=name, source=Source(entry, self.keeper.runs), hooks=_Told(self),
            passing=PASSING,
        )  # fmt: skip
        self._give_back = give_back_script()
        self._policy_told = asyncio.Event()
        self._up_since: float | None = None
        self._connected_once = False

    # -- life ----------------------------------------------------------------

    async def run(self) -> None:
        """Keep until cancelled; then say goodbye, within a second."""
        async with self._link, self._ear:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._keep())
                    tasks.create_task(self.orders.run())
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self.orders.goodbye()

    async def _keep(self) -> None:
        # A check by terms that are not the queue's would keep all its workers from theirs: one's counts for all.
        await self._policy_told.wait()
        await self.keeper.run()

    def learn(self, doc: str) -> None:
        """Follow what this policy says of recovery."""
        self.keeper.terms = Terms.of_policy(doc)
        self._policy_told.set()

    @property
    def up_seconds(self) -> float | None:
        """For how long Redis has been there without a break; None while it is not."""
        return None if self._up_since is None else time.monotonic() - self._up_since

    @property
    def connected_once(self) -> bool:
        """Whether Redis was ever there."""
        return self._connected_once

    def watch(self, table: SlotTable) -> None:
        """Keep the locks of what `table` says runs."""
        self.keeper.watch(table)

    def forget(self, table: SlotTable) -> None:
        """Keep them no longer."""
        self.keeper.forget(table)

    def _note_state(self, state: LinkState, reason: str) -> None:
        if state is LinkState.READY:
            self._connected_once = True
            self._up_since = time.monotonic()
        elif self._up_since is not None:
            self._up_since = None
        if state is LinkState.DOWN:
            self._hooks.trouble("the connection", ConnectionLost(reason, sent=False))

    # -- handing back ----------------------------------------------------------

    async def release(self, runs: Iterable[Run], *, death: Death = Death.NONE, by: str = "") -> list[Released]:
        """Put these jobs back to wait, no attempt spent, each with what `death` of the process `by` means for it.

        Tried until Redis answers, or the locks have run out: then the jobs are taken back like any dead worker's. All at once, as
        who ends must not wait for a Redis that is away as many times as it had jobs.
        """
        until = time.monotonic() + self.keeper.terms.lock_ms / 1000
        return await asyncio.gather(*(self._release(run, death, by, until) for run in runs))

    async def _release(self, run: Run, death: Death, by: str, until: float) -> Released:
        while True:
            try:
                fields: tuple[str, ...] = ()
                if death is not Death.NONE:
                    async with asyncio.timeout(_ANSWER_S):
                        fields = await self._remember(run, death, by)
                async with asyncio.timeout(_ANSWER_S):
                    code = await self._put_back(run, fields)
            except (TimeoutError, *PASSING) as error:
                self._hooks.trouble("handing back a job", error)
                if time.monotonic() > until:
                    return Released(run, death, given_back=False, quarantined=False)
                await asyncio.sleep(_PAUSE_S)
            else:
                given_back = isinstance(code, int) and code >= 0
                return Released(run, death, given_back, quarantined=given_back and "defa" in fields)

    async def _remember(self, run: Run, death: Death, by: str) -> tuple[str, ...]:
        key = self._keys.base.encode() + run.view.job_id
        reply = await self._link.call("HMGET", key, "bullpen:company", "bullpen:crashes", "bullpen:deaths")
        known = [(raw or b"").decode(errors="replace") for raw in cast("list[bytes | None]", reply)]
        crashes = Crashes.read(*known).after(death, by)
        return crashes.fields(death, self.keeper.terms.max_crashes)

    async def _put_back(self, run: Run, fields: tuple[str, ...]) -> object:
        keys = self._keys
        names = (
            keys.active, keys.wait, keys.stalled, keys.paused, keys.meta, keys.limiter, keys.prioritized, keys.marker,
            keys.events,
        )  # fmt: skip
        packed = msgpack.packb(list(fields)) if fields else b""
        job_id = run.view.job_id
        return await self._link.eval(
            self._give_back, names, [job_id, run.view.token, keys.base.encode() + job_id, packed], repeatable=True
        )


class _Told:
    """What keeper and orders say, passed on as custody's."""

    def __init__(self, custody: Custody) -> None:
        self._custody = custody
        self._hooks = custody._hooks  # noqa: SLF001 - one thing in two classes

    def lost(self, run: Run) -> None:
        self._custody.orders.lost(run)
        self._hooks.lost(run)

    def renewed(self, kept: int, lost: int) -> None:
        self._hooks.renewed(kept, lost)

    def renewal_failed(self, error: Exception | None) -> None:
        self._hooks.trouble("renewing locks", error)

    def recovered(self, decisions: Sequence[recovery.Decision]) -> None:
        self._hooks.recovered(decisions)

    def retire(self, *, retiring: bool) -> None:
        self._hooks.retire(retiring=retiring)

    def limited(self, delay_ms: int) -> None:
        self._hooks.limited(delay_ms)

    def policy(self, rev: str, doc: str) -> None:
        self._custody.learn(doc)
        self._hooks.policy(rev, doc)

    def cancel(self, run: Run, reason: str) -> None:
        self._hooks.cancel(run, reason)

    def beat_failed(self, error: Exception) -> None:
        self._hooks.trouble("the beat", error)


class CustodyThread:
    """Custody in a thread with a loop of its own, for a worker inside of somebody else's process.

    Hooks are called in that thread: pass them on with ``loop.call_soon_threadsafe``. `stop` is idempotent and waits.
    """

    def __init__(self, custody: Callable[[], Custody], on_end: Callable[[BaseException | None], None]) -> None:
        """`custody` is made in the thread; `on_end` is told there how it ended, None for by `stop`."""
        self._make = custody
        self._on_end = on_end
        self._ready: Future[Custody] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, name="bullpen-custody", daemon=True)

    def start(self) -> Custody:
        """Start, and give the custody; call only what is safe from another thread (`call`)."""
        self._thread.start()
        return self._ready.result()

    def call(self, action: Callable[[], object]) -> None:
        """Have `action` run in custody's loop, such as ``lambda: custody.watch(table)``."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(action)

    def stop(self) -> None:
        """End, say goodbye to Redis, and return when that is done."""
        task = self._task
        if task is not None:
            self.call(task.cancel)
        if self._thread.is_alive():
            self._thread.join()

    def _main(self) -> None:
        ended: BaseException | None = None
        try:
            asyncio.run(self._run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the owner
            ended = error
            if not self._ready.done():
                self._ready.set_exception(error)
        self._on_end(ended)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        custody = self._make()
        self._ready.set_result(custody)
        await custody.run()
