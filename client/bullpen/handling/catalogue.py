"""The handlers of one worker: found by the job's name, with their dependencies open."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from bullpen.errors import ConfigurationError
from bullpen.handling.handlers import Handlers
from bullpen.handling.registrations import FALLBACK, Handler, Lifespan, Registration

Deps = Mapping["Lifespan | None", object]
"""What each lifespan gave; None's is None."""


class Catalogue:
    """What a worker of `queue` can run, resolved and compiled.

    Registries of other queues are left out. Raises `ConfigurationError` when none is for this queue, when two handlers have one
    name (both places are named), and for what a handler's definition gets wrong.
    """

    def __init__(self, handlers: Iterable[Handlers[Any]], queue: str) -> None:
        self.queue = queue
        given = list(dict.fromkeys(handlers))
        taken = [each for each in given if each.queue is None or each.queue == queue]
        found: dict[str, Registration] = {}
        for owner in taken:
            for handler in (each for same_name in owner.registered.values() for each in same_name):
                if handler.queue is not None and handler.queue != queue:
                    continue
                registration = handler.registration(owner)
                other = found.setdefault(registration.name, registration)
                if other is not registration:
                    raise _twice(registration, other, queue)
        if not found:
            raise _none(given, queue)
        self._fallback = found.pop(FALLBACK, None)
        self._found = found

    def find(self, name: str) -> Registration | None:
        """Give the handler of jobs of that name, else the fallback, else None."""
        return self._found.get(name, self._fallback)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that have a handler of their own."""
        return tuple(self._found)

    @property
    def versions(self) -> Mapping[str, int]:
        """Names with the newest payload version that is known."""
        return {name: registration.version for name, registration in self._found.items()}

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """All of them, the fallback last."""
        return (*self._found.values(), *([self._fallback] if self._fallback else []))

    def lifespans(self) -> tuple[Lifespan, ...]:
        """The lifespans, each once."""
        found = (registration.lifespan for registration in self.registrations)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    @asynccontextmanager
    async def open_deps(self) -> AsyncIterator[Deps]:
        """Enter every lifespan once, in order, and leave them in the opposite one.

        What one raises comes through: the worker ends with its traceback. A job's dependencies are
        ``deps[registration.lifespan]``.
        """
        async with open_lifespans(self.lifespans()) as deps:
            yield deps


@asynccontextmanager
async def open_lifespans(lifespans: Iterable[Lifespan]) -> AsyncIterator[Deps]:
    """Enter lifespans and give what each gave. Raises `ConfigurationError` for one that is no context manager."""
    deps: dict[Lifespan | None, object] = {None: None}
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            manager: object = lifespan()
            if isinstance(manager, AbstractAsyncContextManager):
                deps[lifespan] = await stack.enter_async_context(manager)
            elif isinstance(manager, AbstractContextManager):
                deps[lifespan] = stack.enter_context(manager)
            else:
                raise _no_manager(lifespan, manager)
        yield deps


def _no_manager(lifespan: Callable[[], object], manager: object) -> ConfigurationError:
    name = getattr(lifespan, "__qualname__", repr(lifespan))
    return ConfigurationError(
        f"lifespan {name} gives {type(manager).__qualname__}, which is no context manager: decorate it with "
        "@contextlib.asynccontextmanager or @contextlib.contextmanager"
    )


def _twice(one: Registration, other: Registration, queue: str) -> ConfigurationError:
    what = "a fallback" if one.is_fallback else f"job {one.name!r}"
    return ConfigurationError(
        f"two handlers of queue {queue!r} for {what}: {other.module}.{other.qualname} ({other.where}) and "
        f"{one.module}.{one.qualname} ({one.where})"
    )


def _none(given: Iterable[Handlers[Any]], queue: str) -> ConfigurationError:
    queues = sorted({str(handler.queue) for each in given for handler in _all(each) if handler.queue is not None})
    there = f"there are handlers of {', '.join(queues)}" if queues else "there are no handlers at all"
    return ConfigurationError(f"no handler for queue {queue!r}: {there}")


def _all(handlers: Handlers[Any]) -> Iterable[Handler[..., Any, ..., Any]]:
    return [each for same_name in handlers.registered.values() for each in same_name]
