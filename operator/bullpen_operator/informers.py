"""Keeps the cache as the API server has it: lists, then Kopf's watches, and a list again now and then.

Concurrency model. Kopf runs in a thread of its own, with an event loop of its own: embedded in ours it would take the
signals, and cancel at its end every task that was born after it. Its handlers do nothing but put events into a deque,
which the operator's loop empties in batches; the cache is touched by the operator's loop alone. `run` owns the thread: when Kopf ends
(the API server said 5xx for a minute, a role was taken away), it says why, waits with jitter and starts anew, in place;
the cache stays as it was, old, and whoever reads it holds still by other means (writes fail while there is no API server).

Kopf tells neither when a list is complete nor what was deleted while it did not watch. So the lists are ours: one before
Kopf starts (then the cache is complete: `synced`), one soon after, for what went in between, and one at each resync.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import kopf
from kubernetes.aio.client import Configuration

from bullpen_operator.cache import Cache
from bullpen_operator.kube import access, kinds
from bullpen_operator.kube.client import Kube
from bullpen_operator.kube.errors import KubeError, NotFound
from bullpen_operator.kube.kinds import Kind, Object

log = logging.getLogger("bullpen.operator.informers")

SETTLE_SECONDS: Final = 5.0
"""How long after Kopf's start its watches are sure to stand; what went before is found by a list."""

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 120.0
"""Kopf that ran so long was well: the next pause is the first again."""

STOP_SECONDS: Final = 10.0
START_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A kind, and by which labels its objects are chosen on the server's side."""

    kind: Kind
    labels: str = ""


def watched(*, cluster_wide: bool) -> tuple[Watched, ...]:
    """Give what is watched. Secrets never are."""
    ours = f"{kinds.LABEL_MANAGED_BY}={kinds.MANAGED_BY}"
    found = [
        Watched(kinds.JOBQUEUE),
        Watched(kinds.REDIS_CONNECTION),
        # Ours carry the label, too, so that one watch brings ours and those that others let us scale.
        Watched(kinds.DEPLOYMENT, kinds.LABEL_SCALED_BY),
        Watched(kinds.STATEFULSET, kinds.LABEL_SCALED_BY),
        Watched(kinds.REPLICASET, ours),
        Watched(kinds.POD, ours),
    ]
    if cluster_wide:
        found += [Watched(kinds.CLUSTER_REDIS_CONNECTION), Watched(kinds.NAMESPACE)]
    return tuple(found)


@dataclass(slots=True)
class _Thread:
    """One life of Kopf."""

    thread: threading.Thread
    ended: asyncio.Event
    stop: "concurrent.futures.Future[None]"
    error: BaseException | None = None


class Informers:
    """Fills the cache. `namespaces` empty: all. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        kube: Kube,
        configuration: Configuration,
        cache: Cache,
        *,
        namespaces: tuple[str, ...],
        resync_seconds: float,
        clock: Callable[[], float],
        random: Callable[[], float],
        wants: Iterable[Watched] | None = None,
    ) -> None:
        self._kube = kube
        self._configuration = configuration
        self._cache = cache
        self._namespaces = namespaces
        self._resync_seconds = resync_seconds
        self._clock = clock
        self._random = random
        self._wants = tuple(wants) if wants is not None else watched(cluster_wide=not namespaces)
        self._events: deque[tuple[Kind, str | None, Object]] = deque()
        self._draining = False
        self.synced = asyncio.Event()
        """Set once every kind was listed."""
        self.heard_at = clock()
        """When the API server last told us anything."""
        self.watching = False
        """Whether Kopf runs."""
        self.restarts = 0

    async def run(self) -> None:
        """Keep the cache until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = self._clock()
            why = await self._live()
            self.restarts += 1
            pause = FIRST_PAUSE_SECONDS if self._clock() - began > HEALTHY_SECONDS else pause
            log.warning("informers_restart", extra={"why": why, "in_seconds": round(pause, 1)})
            await asyncio.sleep(pause * (0.5 + self._random()))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def relist(self) -> None:
        """List everything, and make the cache so. Raises `KubeError`; what was listed before that stays."""
        for each in self._wants:
            for namespace in self._namespaces if each.kind.namespaced and self._namespaces else ("",):
                objects, version = await self._kube.list_at(each.kind, namespace, each.labels)
                here = _within(namespace)
                self._cache.replace_all(each.kind, objects, version, here)
                self.heard_at = self._clock()

    async def _live(self) -> str:
        """List, start Kopf, list again, and so on until Kopf ends. Gives why it ended."""
        try:
            await self.relist()
        except NotFound as error:
            return f"{error}: are the definitions of Bullpen's kinds installed? bullpen crd | kubectl apply -f -"
        except KubeError as error:
            return str(error)
        if not self.synced.is_set():
            self.synced.set()
            log.info("informers_synced", extra={str(each.kind): self._cache.count(each.kind) for each in self._wants})
        life = self._start()
        self.watching = True
        try:
            wait = SETTLE_SECONDS
            while not await _within_seconds(life.ended, wait):
                try:
                    await self.relist()
                except KubeError as error:
                    log.warning("resync_failed", extra={"error": str(error)})
                wait = self._resync_seconds * (0.75 + 0.5 * self._random())
        finally:
            self.watching = False
            await self._stop(life)
        return f"Kopf ended: {life.error or 'for no reason it gave'}"

    # -- Kopf's thread -------------------------------------------------------------------------------------------

    def _start(self) -> _Thread:
        loop = asyncio.get_running_loop()
        life: _Thread

        def main() -> None:
            try:
                asyncio.run(self._watch(loop, life.stop))
            except BaseException as error:  # noqa: BLE001 - it is the owner's to judge
                life.error = error
            finally:
                with contextlib.suppress(RuntimeError):  # the operator's loop is gone already
                    loop.call_soon_threadsafe(life.ended.set)

        thread = threading.Thread(target=main, name="kopf", daemon=True)
        life = _Thread(thread, asyncio.Event(), concurrent.futures.Future())
        life.thread.start()
        return life

    async def _stop(self, life: _Thread) -> None:
        if not life.stop.done():
            life.stop.set_result(None)
        if not await _within_seconds(life.ended, STOP_SECONDS):
            log.warning("kopf_does_not_end", extra={"seconds": STOP_SECONDS})

    async def _watch(self, loop: asyncio.AbstractEventLoop, stop: "concurrent.futures.Future[None]") -> None:
        """Have Kopf watch until it ends, or is told to: by cancellation, its own way to stop takes seconds."""
        asyncio.get_running_loop().set_exception_handler(_noted)
        started = asyncio.Event()
        working = asyncio.create_task(self._kopf(loop, started))
        waiting = asyncio.wrap_future(stop)
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        try:
            if working.done():
                return working.result()
            # Kopf that is ended while it begins leaves its connections open.
            await _within_seconds(started, START_SECONDS)
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
        finally:
            waiting.cancel()
            await _cut_off()
        return None

    async def _kopf(self, loop: asyncio.AbstractEventLoop, started: asyncio.Event) -> None:
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.watching.connect_timeout = 10
        settings.networking.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.watching.chunk_size = 500
        settings.queueing.idle_timeout = 0.5
        settings.persistence.diffbase_storage = _NoDifferences()
        for each in self._wants:
            if each.labels:
                settings.watching.label_selectors[each.kind.group, each.kind.plural] = each.labels
            self._register(each.kind, registry, loop)

        @kopf.on.login(registry=registry)
        async def login(**_: object) -> kopf.ConnectionInfo:
            return await access.connection_info(self._configuration)

        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            # Else Kopf asks for the name of a user that an image need not know. (A NewType that it does not export.)
            identity="bullpen",  # type: ignore[arg-type]
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            ready_flag=started,
        )

    def _register(self, kind: Kind, registry: kopf.OperatorRegistry, loop: asyncio.AbstractEventLoop) -> None:
        @kopf.on.event(group=kind.group, version=kind.version, plural=kind.plural, registry=registry, id=kind.plural)
        async def heard(event: Mapping[str, object], **_: object) -> None:
            self._events.append((kind, cast("str | None", event["type"]), cast("Object", event["object"])))
            if not self._draining:
                self._draining = True
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Take all that Kopf's thread heard; in the operator's loop."""
        self._draining = False
        self.heard_at = self._clock()
        while self._events:
            kind, what, obj = self._events.popleft()
            if what == "DELETED":
                self._cache.remove(kinds.key_of(kind, obj), obj["metadata"].get("uid", ""))
            else:
                self._cache.put(kind, obj)


class _NoDifferences(kopf.DiffBaseStorage):
    """Nobody here asks Kopf what changed; else it would copy every object of every event, whole, to compare it."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return cast("kopf.BodyEssence", {})

    def fetch(self, **_: object) -> None:
        return None

    def store(self, **_: object) -> None:
        return None


def _noted(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Take it calmly when a callback of Kopf's breaks while it ends; what matters ends Kopf itself, and is told."""
    log.debug("kopf_callback", extra={"error": str(context.get("exception") or context.get("message"))})


async def _cut_off() -> None:
    """Cut off the connections that were closed with TLS on them and wait for the other side's goodbye: the loop ends now.

    There is no public way to find them; a loop that does not keep them by this name leaves them to their end.
    """
    for transport in list(getattr(asyncio.get_running_loop(), "_transports", {}).values()):
        transport.abort()
    for _ in range(3):  # what is cut off is told so in the loop's next turns
        await asyncio.sleep(0)


def _within(namespace: str) -> Callable[[Object], bool]:
    return lambda obj: not namespace or obj["metadata"].get("namespace") == namespace


async def _within_seconds(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
