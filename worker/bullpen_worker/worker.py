"""A worker inside of somebody else's program.

Concurrency model: `Worker.run` runs the engine on the caller's event loop. What keeps its jobs its own (locks, recovery, the
beat, orders) runs in a thread with a loop and connections of its own, so that a handler which blocks the caller's loop
does not lose its locks; what that thread learns comes over by ``call_soon_threadsafe``. Both end before `run` returns. There are
no signal handlers, ports or logging here: those are ``bullpen worker``'s.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from bullpen import _version, durations
from bullpen.clients.client import Client
from bullpen.durations import Duration
from bullpen.handling.catalogue import Catalogue
from bullpen.handling.contexts import CancelReason
from bullpen.handling.handlers import Handlers
from bullpen.handling.middleware import RunMiddleware
from bullpen.queue.keys import QueueKeys
from bullpen.queue.policy import BUILT_IN
from bullpen.redis import binding
from bullpen_worker.executors.facilities import Facilities
from bullpen_worker.keeping import recovery
from bullpen_worker.keeping.custody import Custody, CustodyThread
from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.recovery import Decision
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.running import policies
from bullpen_worker.running.engine import Engine
from bullpen_worker.running.hooks import EngineHooks, Guarded, NoHooks

if TYPE_CHECKING:
    from bullpen.clients.sync_client import SyncClient
    from bullpen.redis.settings import RedisSettings

_ROWS: Final = 128

logger = logging.getLogger("bullpen.worker")


class Worker:
    """Works on one queue, in the caller's process, on the Redis and prefix of `client`.

    `handlers` are registries, of which those of this queue (or of none) are used; `concurrency` is how many jobs run at
    once; `grace` is how long running jobs may go on once `stop` was called; `middleware` runs around every attempt,
    outside of the registries' own. `hooks` are told of what happens, on the event loop; what they raise is logged.

    Raises `ConfigurationError` when no handler is for the queue, or two have one name.
    """

    def __init__(
        self,
        client: Client,
        *,
        queue: str,
        handlers: Iterable[Handlers[Any]],
        concurrency: int = 10,
        grace: Duration = "30s",
        middleware: Sequence[RunMiddleware] = (),
        hooks: EngineHooks | None = None,
    ) -> None:
        self._client = client
        self._queue = queue
        self._catalogue = Catalogue(handlers, queue)
        self._concurrency = _checked(concurrency)
        self._grace_ms = durations.parse_ms(grace)
        self._middleware = tuple(middleware)
        self._hooks = NoHooks() if hooks is None else Guarded(hooks)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._stopped = threading.Event()
        self._told: asyncio.Future[None] | None = None
        self._policy = BUILT_IN
        self._held = False
        self._limited_until = 0.0
        self._started_ms = time.time_ns() // 1_000_000
        self.name: Final = recovery.worker_name(socket.gethostname(), secrets.token_hex(6))
        """What stands in a job's ``pb`` while it runs here; BullMQ's tools show it."""

    @property
    def concurrency(self) -> int:
        """How many jobs run at once; may be changed at run time. Lowered, jobs that run are not disturbed."""
        return self._concurrency

    @concurrency.setter
    def concurrency(self, n: int) -> None:
        self._concurrency = _checked(n)
        self._on_loop(self._apply_concurrency)

    async def run(self) -> None:
        """Work until `stop`, then let running jobs end within the grace period and give the others back.

        Raises what it cannot live with (a lifespan that fails, a Redis that refuses BullMQ's scripts); waits for a Redis
        that is away. Cancelled, it gives running jobs back at once. A worker runs once: raises `RuntimeError` when it ran.
        """
        if self._loop is not None:
            msg = "this Worker has run already; make another"
            raise RuntimeError(msg)
        loop = self._loop = asyncio.get_running_loop()
        if self._stopped.is_set():
            return
        client = self._client._session  # noqa: SLF001 - the worker is the client's other half
        settings = binding.for_queue(client.settings, self._queue)
        keys = QueueKeys(settings.prefix, self._queue)
        told = self._told = loop.create_future()
        ended: asyncio.Future[None] = loop.create_future()
        with contextlib.closing(SlotTable.create(max(self._concurrency, _ROWS))) as table:
            keeping = CustodyThread(
                lambda: Custody(settings, keys, name=self.name, hooks=_Relay(self), entry=self._entry),
                lambda error: self._on_loop(lambda: _settle(ended, error)),
            )
            custody = keeping.start()
            try:
                keeping.call(lambda: custody.watch(table))
                working = asyncio.ensure_future(self._work(settings, keys, table, told))
                try:
                    await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
                    if not working.done():
                        ended.result()
                        msg = "what keeps the locks of this worker has ended"
                        raise RuntimeError(msg)
                finally:
                    working.cancel()  # does nothing to one that is done
                    await asyncio.wait([working])
                working.result()
            finally:
                await asyncio.to_thread(keeping.stop)
                ended.cancel()

    def stop(self) -> None:
        """Take no new jobs; `run` returns when those that run have ended. Idempotent, from any thread."""
        self._stopped.set()
        self._on_loop(self._apply_stop)

    # -- inside ----------------------------------------------------------------

    async def _work(
        self, settings: "RedisSettings", keys: QueueKeys, table: SlotTable, told: "asyncio.Future[None]"
    ) -> None:
        await told
        if self._stopped.is_set():
            return
        with _Clients(self._client, settings) as clients:
            async with Facilities(self._catalogue.registrations, self._concurrency, redis=settings) as facilities:
                self._facilities = facilities
                table.grow(self._concurrency)  # it may have been changed since they were made
                facilities.resize(self._concurrency)
                engine = self._engine = Engine(
                    settings=settings,
                    keys=keys,
                    name=self.name,
                    catalogue=self._catalogue,
                    policy=self._policy,
                    table=table,
                    executors=facilities,
                    clients=clients,
                    concurrency=self._concurrency,
                    hooks=self._hooks,
                    middleware=self._middleware,
                )
                if self._held:
                    engine.hold()
                if (left := self._limited_until - time.monotonic()) > 0:
                    engine.limited(int(left * 1000) + 1)
                if self._stopped.is_set():
                    engine.stop(self._grace_ms)
                await engine.run()

    def _on_loop(self, action: Callable[[], object]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(action)

    def _apply_stop(self) -> None:
        if self._engine is not None:
            if not self._engine.giving_back:
                self._engine.stop(self._grace_ms)
        elif self._told is not None and not self._told.done():
            self._told.set_result(None)  # nothing will

    def _apply_concurrency(self) -> None:
        if self._engine is not None:
            self._engine.table.grow(self._concurrency)
            self._engine.concurrency = self._concurrency
            self._facilities.resize(self._concurrency)

    def _entry(self) -> Entry:
        return Entry(
            host=socket.gethostname(),
            pid=os.getpid(),
            started_ms=self._started_ms,
            slots=self._concurrency,
            busy=self._engine.busy if self._engine is not None else 0,
            processes=1,
            state="stopping" if self._stopped.is_set() else "retiring" if self._held else "working",
            names=self._catalogue.names,
            version=_version.__version__,
        )

    # -- what the thread learns, on the loop ------------------------------------

    def _learn_policy(self, doc: str) -> None:
        self._policy = policies.follow(doc, self._policy)
        if self._engine is not None:
            self._engine.apply_policy(self._policy)
        elif self._told is not None and not self._told.done():
            self._told.set_result(None)

    def _learn_retire(self, *, retiring: bool) -> None:
        self._held = retiring
        if self._engine is not None:
            if retiring:
                self._engine.hold()
            else:
                self._engine.release()

    def _learn_limited(self, delay_ms: int) -> None:
        self._limited_until = time.monotonic() + delay_ms / 1000
        if self._engine is not None:
            self._engine.limited(delay_ms)

    def _learn_lost(self, run: Run) -> None:
        if self._engine is not None:
            self._engine.lock_lost(run.view.slot, run.view.generation)

    def _learn_cancel(self, run: Run, reason: str) -> None:
        if self._engine is not None:
            self._engine.cancel(run.view.job_id.decode(errors="surrogateescape"), CancelReason.CANCELLED, reason)


class _Relay:
    """Custody's hooks: passes on, from its thread, what is the loop's business."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pass_on = worker._on_loop  # noqa: SLF001 - one thing in two classes

    def lost(self, run: Run) -> None:
        self._pass_on(lambda: self._worker._learn_lost(run))  # noqa: SLF001

    def cancel(self, run: Run, reason: str) -> None:
        self._pass_on(lambda: self._worker._learn_cancel(run, reason))  # noqa: SLF001

    def retire(self, *, retiring: bool) -> None:
        self._pass_on(lambda: self._worker._learn_retire(retiring=retiring))  # noqa: SLF001

    def limited(self, delay_ms: int) -> None:
        self._pass_on(lambda: self._worker._learn_limited(delay_ms))  # noqa: SLF001

    def policy(self, rev: str, doc: str) -> None:
        del rev
        self._pass_on(lambda: self._worker._learn_policy(doc))  # noqa: SLF001

    def renewed(self, kept: int, lost: int) -> None:
        if lost:
            logger.warning("%d locks were lost, %d are kept", lost, kept)

    def recovered(self, decisions: Sequence[Decision]) -> None:
        logger.info("%d jobs of dead workers wait again", len(decisions))

    def trouble(self, doing: str, error: Exception | None) -> None:
        logger.warning("%s: %s; it is tried again", doing, error or "Redis did not answer in time")


class _Clients:
    """The caller's client for async handlers, and a blocking one, made when first asked for."""

    def __init__(self, client: Client, settings: "RedisSettings") -> None:
        self.client = client
        self._settings = settings
        self._sync_client: SyncClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sync_client is not None:
            self._sync_client.close()

    @property
    def sync_client(self) -> "SyncClient":
        if self._sync_client is None:
            from bullpen.clients.sync_client import SyncClient  # noqa: PLC0415 - few handlers enqueue

            self._sync_client = SyncClient(self._settings)
        return self._sync_client


def _settle(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


def _checked(concurrency: int) -> int:
    if concurrency < 1:
        msg = f"concurrency: {concurrency!r} is not allowed; allowed: a whole number from 1"
        raise ValueError(msg)
    return concurrency
