"""Which Redis, and which prefix, for which queue: the one of its binding, else the client's.

A client without bindings has one Redis, and none of this costs it anything. One with bindings has a connection for each
queue that has one, made when the queue is first used.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from bullpen.errors import BullpenError
from bullpen.queue.operations.base import Operation
from bullpen.redis.binding import Binding, Bindings, for_queue
from bullpen.redis.settings import RedisSettings

if TYPE_CHECKING:
    from bullpen.clients.shell import Shell, SyncShell

T = TypeVar("T")


class Routes:
    """Knows the settings of each queue. May be shared by threads."""

    def __init__(self, settings: RedisSettings, bindings: Bindings) -> None:
        self._settings = settings
        self._bindings = bindings
        self._known: dict[str, tuple[Binding | None, RedisSettings]] = {}

    def of(self, queue: str) -> RedisSettings:
        """Give the settings of a queue. Raises `ConfigurationError` where it has half a binding, or nothing at all."""
        binding = self._bindings.find(queue)
        known = self._known.get(queue)
        if known is None or known[0] is not binding:
            known = self._known[queue] = (binding, for_queue(self._settings, queue, self._bindings))
        return known[1]

    def prefix(self, queue: str) -> str:
        """Give what the queue's keys begin with. Raises as `of` does."""
        return self.of(queue).prefix


class RoutingShell:
    """Performs each operation on the Redis of its queue, for the async client."""

    def __init__(self, routes: Routes, make: "Callable[[RedisSettings], Shell]") -> None:
        self._routes = routes
        self._make = make
        self._shells: dict[object, Shell] = {}

    async def perform(self, operation: Operation[T], *, timeout: float) -> T:
        """Do it; see `bullpen.clients.shell.Shell`."""
        return await self._shell(operation).perform(operation, timeout=timeout)

    def blocking(self) -> "Shell":
        """Give one whose connections are its own."""
        return RoutingShell(self._routes, lambda settings: self._make(settings).blocking())

    async def close(self) -> None:
        """Close all connections."""
        shells, self._shells = self._shells, {}
        for shell in shells.values():
            await shell.close()

    def _shell(self, operation: Operation[T]) -> "Shell":
        settings = self._routes.of(_queue(operation))
        account = _account(settings)
        found = self._shells.get(account)
        if found is None:
            found = self._shells[account] = self._make(settings)
        return found


class SyncRoutingShell:
    """The same for the blocking client. Two threads may both make a shell; the other one holds no connection yet."""

    def __init__(self, routes: Routes, make: "Callable[[RedisSettings], SyncShell]") -> None:
        self._routes = routes
        self._make = make
        self._shells: dict[object, SyncShell] = {}

    def perform(self, operation: Operation[T], *, timeout: float, waiting: float = 0) -> T:
        """Do it; see `bullpen.clients.shell.SyncShell`."""
        settings = self._routes.of(_queue(operation))
        account = _account(settings)
        found = self._shells.get(account)
        if found is None:
            found = self._shells.setdefault(account, self._make(settings))
        return found.perform(operation, timeout=timeout, waiting=waiting)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        for shell in tuple(self._shells.values()):
            shell.close()


def _account(settings: RedisSettings) -> object:
    """Give what makes it another connection: the folder, whose files are read anew at each connect; else the one Redis."""
    return settings.binding


def _queue(operation: Operation[Any]) -> str:
    keys = getattr(operation, "keys", None)
    if keys is None:
        msg = f"{type(operation).__name__} is about no queue, so that no binding is its"
        raise BullpenError(msg)
    queue: str = keys.queue
    return queue
