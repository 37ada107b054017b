"""Keeps the cache as the API server has it: lists, then Kopf's watches, and a list again now and then.

Concurrency model. Kopf runs in a thread of its own, with an event loop of its own: embedded in ours it would take the
signals, and cancel at its end every task that was born after it. Its handlers do nothing but put events into a deque,
which the operator's loop empties in batches; the cache is touched by the operator's loop alone. `run` owns the thread: when Kopf ends
(the API server said 5xx for a minute, a role was taken away), it says why, waits with jitter and starts anew, in place;
the cache stays as it was, old, and whoever reads it holds still by other means (writes fail while there is no API server).

Kopf tells neither when a list is complete nor what was deleted while it did not watch. So the lists are ours: one before
Kopf starts (then the cache is complete: `synced`), one soon after, for what went in between, one whenever Kopf lists anew
(its watch was too old: 410), and one at each resync.
"""

import asyncio
import concurrent.futures
import contextlib
import gc
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

LISTED_SECONDS: Final = 1.0
"""So long after the last object of a list of Kopf's, it is over."""

LIST_AGAIN_SECONDS: Final = 5.0
"""When a list that failed is tried again."""

RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0)
"""Kopf's pauses between the attempts at one request. Then it ends, and begins anew with a fresh list; where there is no
connection at all, it goes on trying."""

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 5.0
HEALTHY_SECONDS: Final = 120.0
"""Kopf that ran so long was well: the next pause is the first again."""

WATCHES: Final = "multidimensional multitasker"
WATCH: Final = "watcher for "
"""What Kopf calls the task that has its watches, and how it begins to call each."""

CANCELLATIONS: Final = 50
OWN_END_SECONDS: Final = 6.0
"""How long Kopf may take to close what it has open."""

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
        self._news = asyncio.Event()
        self._listed: dict[tuple[Watched, str], int] = {}
        """The version of the last list of each, by namespace."""
        self._lists = False
        """Whether Kopf has told objects of a list since it was last looked at."""
        self.synced = asyncio.Event()
        """Set once every kind was listed."""
        self.restarts = 0

    async def run(self) -> None:
        """Keep the cache until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = self._clock()
            why = await self._live()
            self.restarts += 1
            gc.unfreeze()  # what was Kopf's is garbage now, and `pauses` had set some of it aside for good
            pause = FIRST_PAUSE_SECONDS if self._clock() - began > HEALTHY_SECONDS else pause
            log.warning("informers_restart", extra={"why": why, "in_seconds": round(pause, 1)})
            await asyncio.sleep(pause * (0.5 + self._random()))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def relist(self) -> bool:
        """List everything, and make the cache so. Raises `KubeError`; what was listed before that stays.

        Gives whether the versions went back since the last time: a backup of etcd was restored. What is known then counts for
        nothing, and watches from versions that are yet to come are deaf.
        """
        went_back = False
        for each in self._wants:
            for namespace in self._namespaces if each.kind.namespaced and self._namespaces else ("",):
                objects, version = await self._kube.list_at(each.kind, namespace, each.labels)
                here = _within(namespace)
                number = int(version) if version.isdecimal() else 0
                if number < self._listed.get((each, namespace), 0):
                    went_back = True
                    self._cache.distrust(each.kind, here)
                self._listed[each, namespace] = number
                self._cache.replace_all(each.kind, objects, version, here)
        return went_back

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
        try:
            wait = SETTLE_SECONDS
            while not await self._ends(life, wait):
                try:
                    if await self.relist():
                        return "the versions of the API server went back"
                except KubeError as error:
                    log.warning("resync_failed", extra={"error": str(error)})
                    wait = LIST_AGAIN_SECONDS * (0.5 + self._random())
                else:
                    wait = self._resync_seconds * (0.75 + 0.5 * self._random())
        finally:
            await self._stop(life)
        return f"Kopf ended: {life.error or 'for no reason it gave'}"

    async def _ends(self, life: _Thread, seconds: float) -> bool:
        """Wait so long, or until Kopf has listed anew. Gives whether Kopf ended meanwhile."""
        self._news.clear()
        if not (life.ended.is_set() or self._lists):
            await _within_seconds(self._news, seconds)
        while self._lists and not life.ended.is_set():
            self._lists = False
            await _within_seconds(life.ended, LISTED_SECONDS)
        return life.ended.is_set()

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
                    loop.call_soon_threadsafe(self._news.set)

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
        failing = asyncio.create_task(_first_failure(started))
        waiting = asyncio.wrap_future(stop)
        try:
            await asyncio.wait((working, waiting, failing), return_when=asyncio.FIRST_COMPLETED)
            if failing.done() and not working.done():
                await _cancel(_watches)
                await asyncio.wait((working,), timeout=OWN_END_SECONDS)
            if working.done():
                return working.result()
            # Kopf that is ended while it begins leaves its connections open.
            await _within_seconds(started, START_SECONDS)
            working.cancel()
            await asyncio.wait((working,), timeout=OWN_END_SECONDS)
            if failing.done():
                failing.result()
        finally:
            failing.cancel()
            waiting.cancel()
            await _cancel(_others)
            await _cut_off()
            await _cut_off()  # what those had under way
        return None

    async def _kopf(self, loop: asyncio.AbstractEventLoop, started: asyncio.Event) -> None:
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.watching.connect_timeout = 10
        settings.networking.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.networking.error_backoffs = RETRY_SECONDS
        settings.watching.chunk_size = 100  # of what may be large: a JobQueue takes up to 1.5 MB
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
        while self._events:
            kind, what, obj = self._events.popleft()
            try:
                self._take(kind, what, obj)
            except Exception:  # what nobody foresaw of one object must not keep what was heard of all others
                log.exception("news_broke", extra={"kind": str(kind)})

    def _take(self, kind: Kind, what: str | None, obj: Object) -> None:
        metadata = obj["metadata"]
        if what == "DELETED":
            self._cache.remove(kinds.key_of(kind, obj), metadata.get("uid", ""), metadata.get("resourceVersion", ""))
            return
        self._cache.put(kind, obj)
        if what is None:
            self._lists = True
            self._news.set()


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


async def _first_failure(started: asyncio.Event) -> None:
    """Wait until the first watch fails for good, and raise what it failed with.

    Left to itself, Kopf then goes on with the other watches for the better part of a minute, over connections that it has
    closed. Should the task that has them all be of another name one day, it ends in its own time.
    """
    await started.wait()
    all_of_them = [task for task in asyncio.all_tasks() if task.get_name() == WATCHES]
    if all_of_them:
        await asyncio.wait(all_of_them)
        all_of_them[0].result()
    await asyncio.get_running_loop().create_future()


def _watches() -> set["asyncio.Task[object]"]:
    return {task for task in asyncio.all_tasks() if task.get_name().startswith(WATCH)}


def _others() -> set["asyncio.Task[object]"]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def _cancel(tasks: "Callable[[], set[asyncio.Task[object]]]") -> None:
    """Cancel tasks until they end: a watch of Kopf's may take a cancellation for the end of what it waits for, and go on."""
    for _ in range(CANCELLATIONS):
        if not (left := tasks()):
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)


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
