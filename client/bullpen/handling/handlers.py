"""The registry of handlers.

`Handlers` is an object of the application's: there is no global one. Registering inserts into a dict and does nothing else: no
I/O, no thread, no annotation resolved.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, Unpack, cast, final, overload

from pydantic import JsonValue

from bullpen import jobs
from bullpen.errors import ConfigurationError
from bullpen.handling import registrations
from bullpen.handling.contexts import Context, SyncContext
from bullpen.handling.middleware import RunMiddleware
from bullpen.handling.registrations import Handler, Upgrade
from bullpen.jobs import JobType
from bullpen.options import Backoff, JobDefaults
from bullpen.retry import BackoffFunction

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)

Lifespan = Callable[[], AbstractAsyncContextManager[D] | AbstractContextManager[D]]
ErrorClasses = type[Exception] | tuple[type[Exception], ...]
FallbackFunction = Callable[[Context[D], JsonValue], Coroutine[Any, Any, JsonValue]]


@final
class ContextMismatch:
    """What a checker sees where ``async def`` takes a SyncContext, ``def`` a Context, or the dependencies are others.

    It has no ``job``, so using the handler is refused; the worker refuses it at load.
    """


class HandlerDecorator(Protocol[D]):  # pyright: ignore[reportInvalidTypeVarUse]
    """What ``handlers.handler("name")`` gives. The order of the overloads matters: the context's kind decides first."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[Context[D], P], Coroutine[Any, Any, R]], /
    ) -> Handler[P, R, Concatenate[Context[D], P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[Concatenate[SyncContext[Any], P], Coroutine[Any, Any, object]], /
    ) -> ContextMismatch: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[SyncContext[D], P], R], /
    ) -> Handler[P, R, Concatenate[SyncContext[D], P], R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context[Any], P], object], /) -> ContextMismatch: ...
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, fn: Callable[Concatenate[SyncContext[Any], P], object], /
    ) -> ContextMismatch: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, R, P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Handler[P, R, P, R]: ...


class ContractDecorator(Protocol[D_co, P, R]):
    """What ``handlers.handler(contract)`` gives: the function's payload and result must be the contract's."""

    @overload
    def __call__(
        self, fn: Callable[Concatenate[Context[D_co], P], Coroutine[Any, Any, R]], /
    ) -> Handler[P, R, Concatenate[Context[D_co], P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[SyncContext[D_co], P], R], /
    ) -> Handler[P, R, Concatenate[SyncContext[D_co], P], R]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Handler[P, R, P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Handler[P, R, P, R]: ...


class Handlers(Generic[D]):
    """Handlers of one queue (or of any, without a name), with what they depend on and what runs around them.

    `lifespan` is a function that gives a context manager, async or plain; it is entered once in each process that runs
    handlers, and what it gives is ``ctx.deps``. Registries with the same lifespan share what it gives. `middleware` runs around
    every attempt of these handlers, the first outermost.
    """

    @overload
    def __init__(
        self: "Handlers[None]", queue: str | None = None, *, middleware: Sequence[RunMiddleware] = ()
    ) -> None: ...
    @overload
    def __init__(
        self, queue: str | None = None, *, lifespan: Lifespan[D], middleware: Sequence[RunMiddleware] = ()
    ) -> None: ...
    def __init__(
        self,
        queue: str | None = None,
        *,
        lifespan: Lifespan[Any] | None = None,
        middleware: Sequence[RunMiddleware] = (),
    ) -> None:
        _check_lifespan(lifespan)
        self._queue = None if queue is None else jobs.check_queue_name(queue)
        self._lifespan = lifespan
        self._middleware = tuple(middleware)
        self._handlers: dict[str, list[Handler[..., Any, ..., Any]]] = {}

    def __repr__(self) -> str:
        return f"<Handlers of {'any queue' if self._queue is None else repr(self._queue)}: {', '.join(self._handlers)}>"

    @property
    def queue(self) -> str | None:
        """The queue whose jobs these handle; None for any."""
        return self._queue

    @property
    def lifespan(self) -> Lifespan[D] | None:
        """What opens the dependencies."""
        return self._lifespan

    @property
    def middleware(self) -> tuple[RunMiddleware, ...]:
        """What runs around every attempt, the first outermost."""
        return self._middleware

    @property
    def registered(self) -> Mapping[str, Sequence[Handler[..., Any, ..., Any]]]:
        """Handlers by name, the fallback under `registrations.FALLBACK`. More than one of a name is refused at load."""
        return self._handlers

    @overload
    def handler(
        self,
        job: str,
        /,
        *,
        version: int = 1,
        upgrade: Upgrade | None = None,
        executor: Literal["thread", "process"] | None = None,
        give_up_on: ErrorClasses = (),
        backoff_for: Mapping[type[Exception], Backoff] | BackoffFunction | None = None,
        **defaults: Unpack[JobDefaults],
    ) -> HandlerDecorator[D]: ...
    @overload
    def handler(
        self,
        job: JobType[P, R],
        /,
        *,
        upgrade: Upgrade | None = None,
        executor: Literal["thread", "process"] | None = None,
        give_up_on: ErrorClasses = (),
        backoff_for: Mapping[type[Exception], Backoff] | BackoffFunction | None = None,
    ) -> ContractDecorator[D, P, R]: ...
    def handler(
        self,
        job: "str | JobType[Any, Any]",
        /,
        *,
        version: int | None = None,
        upgrade: Upgrade | None = None,
        executor: Literal["thread", "process"] | None = None,
        give_up_on: ErrorClasses = (),
        backoff_for: Mapping[type[Exception], Backoff] | BackoffFunction | None = None,
        **defaults: Unpack[JobDefaults],
    ) -> Any:
        """Register the decorated function for jobs of a name, or as the code of a `JobType`.

        An ``async def`` runs on the worker's event loop, a ``def`` in a thread, or in a process of its own with
        ``executor="process"``. What the payload is, `bullpen.handling.signatures` says.

        - `version` is the payload's; `upgrade` has functions by the version they lead away from, dict to dict, and is chained.
        - `give_up_on`: errors after which the job fails at once.
        - `backoff_for`: the wait by error class, or ``(attempt, error) -> delay or None``, async too; None leaves it to the
          policy.
        - `defaults` are those of `JobDefaults`; with a `JobType` they are the contract's.

        Raises `TypeError` for an unknown option, `OptionInvalid` or `ConfigurationError` for a value that is not allowed.
        """
        if executor not in {None, "thread", "process"}:
            msg = f'executor: {executor!r} is not allowed; allowed: "thread", "process"'
            raise TypeError(msg)
        contract = job if isinstance(job, JobType) else None
        if contract is None and not isinstance(job, str):
            msg = f"@handlers.handler(name) needs the job's name or a JobType, not {type(job).__qualname__}"
            raise TypeError(msg)
        if contract is not None and (defaults or version is not None):
            msg = f"{', '.join([*defaults, *(['version'] if version is not None else [])])}: the contract says it"
            raise TypeError(msg)
        rules = registrations.rules(give_up_on, backoff_for)
        name = contract.name if contract is not None else cast("str", job)

        def register(function: Callable[..., Any]) -> Handler[..., Any, ..., Any]:
            return self._register(
                Handler(
                    function,
                    owner=self,
                    name=name,
                    queue=self._queue_of(contract),
                    contract=contract,
                    version=(version or 1) if contract is None else contract.version,
                    upgrade=upgrade,
                    executor=executor,
                    rules=rules,
                    defaults=defaults if contract is None else cast("JobDefaults", dict(contract.defaults)),
                )
            )

        return register

    def fallback(self, fn: FallbackFunction[D], /) -> FallbackFunction[D]:
        """Register the function for names that nobody else handles, as Node's one processor does.

        It takes the payload as it lies in Redis, of any version. The queue's default options hold for such jobs.
        """
        self._register(Handler(fn, owner=self, name=registrations.FALLBACK, queue=self._queue))
        return fn

    def with_deps(self, deps: D, /) -> "Handlers[D]":
        """Give the same handlers with these dependencies in place of the lifespan's: for tests."""
        copy = cast(
            "Handlers[D]", Handlers(self._queue, lifespan=lambda: nullcontext(deps), middleware=self._middleware)
        )
        copy._handlers = self._handlers  # noqa: SLF001 - one registry, seen twice
        return copy

    def _register(self, handler: Handler[..., Any, ..., Any]) -> Handler[..., Any, ..., Any]:
        self._handlers.setdefault(handler.name, []).append(handler)
        return handler

    def _queue_of(self, contract: JobType[Any, Any] | None) -> str | None:
        if contract is None or contract.queue is None:
            return self._queue
        if self._queue is not None and self._queue != contract.queue:
            msg = f"{contract!r} cannot be handled by handlers of queue {self._queue!r}"
            raise ConfigurationError(msg)
        return contract.queue


def _check_lifespan(given: object) -> None:  # of anything: what the caller's types promise is not checked at run time
    if given is not None and not callable(given):
        msg = f"lifespan: a function that gives a context manager is needed, not {type(given).__qualname__}"
        raise TypeError(msg)
