"""A handler as its definition in code (`Handler`), and as the worker runs it (`Registration`).

A `Handler` is made when its module is imported, and does nothing then. `Handler.registration` resolves annotations, compiles
codecs and refuses what cannot work; the worker asks for it before its first fetch.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, TypeVar, cast

from pydantic import JsonValue

from bullpen import jobs, serialization
from bullpen.errors import ConfigurationError, UnknownJob
from bullpen.handling import signatures
from bullpen.handling.contexts import BaseContext, Context, SyncContext
from bullpen.handling.middleware import RunMiddleware
from bullpen.handling.signatures import Signature
from bullpen.jobs import JobType
from bullpen.options import Backoff, JobDefaults
from bullpen.retry import BackoffFunction, Rules
from bullpen.serialization import Codec, Misfit
from bullpen.shapes import Arguments, PayloadShape

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

Kind = Literal["async", "thread", "process"]
Upgrade = Mapping[int, Callable[[dict[str, JsonValue]], dict[str, JsonValue]]]
Lifespan = Callable[[], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]

FALLBACK: Final = "*"
"""The name of the handler for names that no other handles. No job of that name is meant by it."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A handler, resolved and compiled, of one registry: all that running a job needs."""

    name: str
    """The job's name; `FALLBACK` for the fallback."""
    queue: str | None
    function: Callable[..., Any]
    kind: Kind
    """Where it runs: on the event loop, in a thread, in a process."""
    context: type[BaseContext[Any]]
    """Which context belongs to it, whether its function takes one or not."""
    takes_context: bool
    decode: Callable[[str | bytes, int], Arguments]
    """Payload's JSON and version to arguments. Raises `PayloadInvalid`, or `UnknownJob` for a version not known yet."""
    encode: Callable[[object], str]
    """Result to JSON. Raises `ResultInvalid`."""
    read_result: Callable[[str | bytes], object]
    """JSON to result."""
    version: int
    defaults: JobDefaults
    rules: Rules
    middleware: tuple[RunMiddleware, ...]
    lifespan: Lifespan | None
    """What opens its dependencies; handlers with the same one share what it gives."""
    module: str
    qualname: str
    where: str
    """File and line of the function."""

    @property
    def is_fallback(self) -> bool:
        """Whether it takes jobs of any name."""
        return self.name == FALLBACK

    def knows(self, version: int) -> bool:
        """Whether it can read payloads of this version. One that is newer is put off: a rolling update is under way."""
        return version <= self.version or self.is_fallback


class Registry(Protocol):
    """What a handler takes from the registry that it stands in."""

    @property
    def middleware(self) -> tuple[RunMiddleware, ...]:
        """What runs around every attempt, the first outermost."""

    @property
    def lifespan(self) -> Lifespan | None:
        """What opens the dependencies."""


class Handler(JobType[P, R], Generic[P, R, Q, T]):
    """What ``@handlers.handler(...)`` makes of a function: callable as the function, and the job's contract.

    `job` takes the payload's parameters only, without the context.
    """

    def __init__(
        self,
        function: Callable[Q, T],
        *,
        owner: Registry,
        name: str,
        queue: str | None,
        contract: JobType[Any, Any] | None = None,
        version: int = 1,
        upgrade: Upgrade | None = None,
        executor: Literal["thread", "process"] | None = None,
        rules: Rules | None = None,
        defaults: JobDefaults | None = None,
    ) -> None:
        self._define(name, queue, version, {} if defaults is None else defaults)
        # A static method of a class hides whether it is a coroutine function.
        self._function: Callable[Q, T] = function.__func__ if isinstance(function, staticmethod) else function
        self._owner = owner
        self._contract = contract
        self._upgrade = {} if upgrade is None else dict(upgrade)
        self._executor = executor
        self._rules = Rules() if rules is None else rules
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", None) or __name__
        self.__wrapped__ = function

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> T:
        """Call the function itself: no queue, no JSON."""
        return self._function(*args, **kwargs)

    @property
    def function(self) -> Callable[Q, T]:
        """The function."""
        return self._function

    @cached_property
    def where(self) -> str:
        """File and line of the function, for messages."""
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        if code is None:
            return f"{self.__module__}.{self.__qualname__}"
        return f"{_relative(code.co_filename)}:{code.co_firstlineno}"

    @cached_property
    def signature(self) -> Signature:
        """The function's signature, resolved at first use. Raises `ConfigurationError`."""
        return signatures.read(self._function, self._said())

    @cached_property
    def payload(self) -> PayloadShape:
        """How its payload is written and read; made at first use."""
        return self.signature.payload if self._contract is None else self._contract.payload

    @cached_property
    def result_codec(self) -> Codec[R]:
        """How its result is written and read; made at first use."""
        codec = self.signature.result if self._contract is None else self._contract.result_codec
        return cast("Codec[R]", codec)

    def registration(self, owner: Registry | None = None) -> Registration:
        """Resolve and compile it, for its own registry or one made by `with_deps`.

        Raises `ConfigurationError` for what cannot work: the wrong context, parameters that no payload can have, an executor
        that cannot run it.
        """
        owner = self._owner if owner is None else owner
        signature = self.signature
        kind = self._kind(signature)
        self._check_contract(signature)
        self._check_upgrades()
        return Registration(
            name=self.name,
            queue=self.queue,
            function=self._function,
            kind=kind,
            context=Context if kind == "async" else SyncContext,
            takes_context=signature.context is not None,
            decode=self._decoder(),
            encode=_encoder(self.name, self.result_codec),
            read_result=self.result_codec.decode,
            version=self.version,
            defaults=self._defaults,
            rules=self._rules,
            middleware=owner.middleware,
            lifespan=owner.lifespan,
            module=self.__module__,
            qualname=self.__qualname__,
            where=self.where,
        )

    def _kind(self, signature: Signature) -> Kind:
        is_async = _is_async(self._function)
        if inspect.isasyncgenfunction(self._function) or inspect.isgeneratorfunction(self._function):
            raise self._refused("a handler returns its result, it does not yield")
        if is_async and self._executor is not None:
            raise self._refused(f"an async def runs on the event loop; make it a def for executor={self._executor!r}")
        if is_async and signature.context == "sync":
            raise self._refused("an async def takes Context, not SyncContext")
        if not is_async and signature.context == "async":
            raise self._refused("a def takes SyncContext, not Context")
        if self._executor == "process":
            self._check_findable()
        return "async" if is_async else self._executor or "thread"

    def _check_findable(self) -> None:
        if self.__module__ == "__main__":
            raise self._refused("a process finds its handler by module; move it out of the script that is run")
        if "<" in self.__qualname__:  # <locals>, <lambda>
            raise self._refused("a process finds its handler by name; define it at the top level of a module, with def")
        if _find(sys.modules.get(self.__module__), self.__qualname__) is not self:
            raise self._refused(f"a process looks for it as {self.__module__}.{self.__qualname__}, and that is another")

    def _check_contract(self, signature: Signature) -> None:
        if self._contract is None:
            return
        declared, own = self._contract.data_type, signature.payload_type
        takes_one = len(_payload_parameters(self._function, signature)) == 1
        if not takes_one:
            raise self._refused(
                f"the contract {self.name!r} has one payload, so it takes one parameter beside the context"
            )
        if isinstance(declared, type) and isinstance(own, type) and not issubclass(declared, own):
            raise self._refused(
                f"the contract {self.name!r} says {declared.__qualname__}, its parameter {own.__qualname__}"
            )

    def _check_upgrades(self) -> None:
        wrong = [step for step in self._upgrade if step not in range(1, self.version)]
        if wrong:
            raise self._refused(f"upgrade from version {wrong[0]}: it is now at version {self.version}")

    def _decoder(self) -> Callable[[str | bytes, int], Arguments]:
        decode, name, current, upgrade = self.payload.decode, self.name, self.version, self._upgrade
        keyword = self._contract_keyword()

        def decoded(data: str | bytes, version: int) -> Arguments:
            try:
                if version != current and name != FALLBACK:
                    data = _upgraded(data, version, current, upgrade, name)
                arguments = decode(data)
            except Misfit as error:
                raise jobs.payload_invalid(name, error) from None
            return arguments if keyword is None else ((), {keyword: arguments[0][0]})

        return decoded

    def _contract_keyword(self) -> str | None:
        if self._contract is None:
            return None
        (parameter,) = _payload_parameters(self._function, self.signature)
        return parameter.name if parameter.kind is parameter.KEYWORD_ONLY else None

    def _said(self) -> str:
        return f"handler {self.name!r} ({self.where})"

    def _refused(self, problem: str) -> ConfigurationError:
        return ConfigurationError(f"{self._said()}: {problem}")


def locate(module: str, qualname: str) -> Registration:
    """Import a module and give the handler of that name in it: how a child process finds what it is to run.

    Raises `ConfigurationError` when there is none, `ImportError` when the module cannot be imported.
    """
    found = _find(importlib.import_module(module), qualname)
    if not isinstance(found, Handler):
        msg = f"{module}.{qualname} is no handler"
        raise ConfigurationError(msg)
    return cast("Handler[..., Any, ..., Any]", found).registration()


def _find(container: object, qualname: str) -> object:
    for part in qualname.split("."):
        container = getattr(container, part, None)
    return container


def _payload_parameters(function: Callable[..., object], signature: Signature) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    return parameters if signature.context is None else parameters[1:]


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _encoder(name: str, codec: Codec[Any]) -> Callable[[object], str]:
    encode = codec.encode

    def encoded(result: object) -> str:
        try:
            return encode(result)
        except Misfit as error:
            raise jobs.result_invalid(
                name, f"{error} (what the handler did is done, so it is not tried again)"
            ) from None

    return encoded


def _upgraded(data: str | bytes, version: int, current: int, upgrade: Upgrade, name: str) -> str:
    if version > current:
        msg = f"job {name!r} has a payload of version {version}; this worker knows versions up to {current}"
        raise UnknownJob(msg)
    payload = serialization.decode_object(data)
    for step in range(version, current):
        function = upgrade.get(step)
        if function is None:
            msg = f"it is of version {version}, and the handler has no upgrade from {step} to {step + 1}"
            raise Misfit(msg)
        try:
            payload = function(payload)
        except Exception as error:
            msg = f"the upgrade from version {step} raised {type(error).__qualname__}"
            raise jobs.payload_invalid(name, msg) from error
    return serialization.encode_json(payload)


def _relative(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except ValueError:
        return filename


def rules(
    give_up_on: type[Exception] | tuple[type[Exception], ...],
    backoff_for: Mapping[type[Exception], Backoff] | BackoffFunction | None,
) -> Rules:
    """Check and give what a handler says about its errors. Raises `TypeError`."""
    classes = give_up_on if isinstance(give_up_on, tuple) else (give_up_on,)
    if not all(_is_error_class(each) for each in classes):
        msg = f"give_up_on: {give_up_on!r} is not allowed; allowed: a class of Exception, or a tuple of them"
        raise TypeError(msg)
    _check_backoff_for(backoff_for)
    return Rules(classes, backoff_for)


def _check_backoff_for(
    given: object,
) -> None:  # of anything: what the caller's types promise is not checked at run time
    if given is None or (callable(given) and not isinstance(given, type | Backoff)):
        return
    if not isinstance(given, Mapping) or not all(
        _is_error_class(each) and isinstance(backoff, Backoff) for each, backoff in given.items()
    ):
        msg = f"backoff_for: {given!r} is not allowed; allowed: a mapping of error classes to Backoff, or a function"
        raise TypeError(msg)


def _is_error_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)
