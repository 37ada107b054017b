"""Contracts, work, options, versions, executors: what a definition says, and what is refused."""

import functools
import sys
import types
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import JsonValue, TypeAdapter

from bullpen import (
    Backoff,
    ConfigurationError,
    Handlers,
    JobSpec,
    JobType,
    OptionInvalid,
    PayloadInvalid,
    ResultInvalid,
    Retention,
    SyncContext,
    UnknownJob,
)
from tests.support.definitions import Page, Point, Receipt, Welcome, call, define


def nothing() -> Any:
    return ()


def model(ctx: SyncContext[None], data: Welcome) -> Any:
    return data


def a_dataclass(p: Point) -> Any:
    return p


def two_models(page: Page, letter: Welcome) -> Any:
    return page, letter


def by_name(user_id: int, *, since: str = "24h") -> Any:
    return user_id, since


# -- contracts ---------------------------------------------------------------

CHARGE = JobType("charge", queue="payments", data=Welcome, result=Receipt, attempts=2)


def test_a_contract_needs_no_code() -> None:
    spec = CHARGE.job(Welcome(user_id=7))
    assert (spec.name, spec.queue, spec.version, spec.defaults) == ("charge", "payments", 1, {"attempts": 2})
    assert spec.data == {"userId": 7, "locale": "en"}
    assert spec.read_result('{"messageId": "a"}') == CHARGE.read_result('{"messageId": "a"}') == Receipt(message_id="a")
    with pytest.raises(PayloadInvalid, match="userId: field required"):
        CHARGE.job(Page())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"charge\.job\(\)"):
        CHARGE.job()  # type: ignore[call-arg]


def test_a_contract_takes_type_adapters_and_gives_nothing_by_default() -> None:
    counts = JobType("counts", data=TypeAdapter(list[int]))
    assert counts.job([1, 2]).data_json == "[1,2]"
    assert counts.queue is None
    assert counts.job([]).read_result("null") is None
    with pytest.raises(ResultInvalid, match="null is needed"):
        counts.read_result("1")


def test_a_handler_of_a_contract_has_its_name_queue_payload_result_and_options() -> None:
    handlers = Handlers()

    @handlers.handler(CHARGE)
    def charge(ctx: SyncContext[None], data: Welcome) -> Receipt:
        return Receipt(message_id=str(data.user_id))

    registration = charge.registration()
    assert (registration.name, registration.queue, registration.defaults) == ("charge", "payments", {"attempts": 2})
    assert call(registration, '{"userId": 7}') == Receipt(message_id="7")
    assert charge.job(Welcome(user_id=7)).data_json == '{"userId":7,"locale":"en"}'


def test_a_contract_is_kept_whatever_the_handlers_parameter_is_like() -> None:
    handlers: Any = Handlers()

    def by_keyword(*, whole: Welcome) -> Receipt:
        return Receipt(message_id=whole.locale)

    assert call(handlers.handler(CHARGE)(by_keyword).registration(), '{"userId":7}') == Receipt(message_id="en")

    def sum_of(items: list[int]) -> int:
        return sum(items)

    listing = JobType("listing", data=list[int], result=int)
    assert call(handlers.handler(listing)(sum_of).registration(), "[1,2]") == 3


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (a_dataclass, "the contract 'charge' says Welcome, its parameter Point"),
        (two_models, "it takes one parameter beside the context"),
        (nothing, "it takes one parameter beside the context"),
    ],
)
def test_a_handler_that_does_not_fit_its_contract_is_refused(function: Callable[..., Any], words: str) -> None:
    handlers: Any = Handlers("payments")
    with pytest.raises(ConfigurationError, match=words):
        handlers.handler(CHARGE)(function).registration()


def test_a_contract_of_another_queue_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be handled by handlers of queue 'emails'"):
        define(model, CHARGE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, 7])
def test_names_that_are_none_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a job's name is text"):
        JobType(name, data=Welcome)


@pytest.mark.parametrize("queue", ["", "a:b", 7])
def test_queue_names_that_bullmq_refuses_are_refused(queue: Any) -> None:
    with pytest.raises(ConfigurationError, match="without colon"):
        JobType("a", data=Welcome, queue=queue)


@pytest.mark.parametrize("version", [0, True, "1", 1.5])
def test_versions_are_whole_numbers_from_1(version: Any) -> None:
    with pytest.raises(ConfigurationError, match="version"):
        JobType("a", data=Welcome, version=version)


# -- specs and options -------------------------------------------------------


def test_a_spec_is_immutable_and_options_add_up() -> None:
    spec: JobSpec[Any] = define(by_name, attempts=5).job(7)
    other = spec.with_options(attempts=2, delay="5m").with_options(delay="1m", priority="high")
    assert spec.options == {}
    assert other.options == {"attempts": 2, "delay": "1m", "priority": "high"}
    assert other.defaults == {"attempts": 5}
    with pytest.raises(AttributeError):
        spec.name = "other"  # type: ignore[misc]


def test_work_by_name_takes_what_an_object_is() -> None:
    assert JobSpec.by_name("a").data_json == "{}"
    assert JobSpec.by_name("a", Welcome(user_id=7), queue="q").data == {"userId": 7, "locale": "en"}
    assert JobSpec.by_name("a", {}).read_result('{"any": 1}') == {"any": 1}
    with pytest.raises(PayloadInvalid, match="job 'a' does not fit: a payload is a JSON object"):
        JobSpec.by_name("a", 7)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": "3"},
        {"priority": -1},
        {"priority": 2_097_152},
        {"priority": ""},
        {"priority": 1.5},
        {"backoff": "2s"},
        {"timeout": "0s"},
        {"timeout": 30},
        {"timeout": "soon"},
        {"retention": 5},
        {"delay": 5},
        {"delay": datetime(2027, 1, 1)},  # noqa: DTZ001 - refused
        {"expires": -1},
        {"lifo": 1},
        {"deduplication": "a"},
    ],
    ids=str,
)
def test_options_that_are_not_allowed_are_refused(options: Any) -> None:
    with pytest.raises(OptionInvalid, match=next(iter(options))):
        JobSpec.by_name("a").with_options(**options)


def test_unknown_options_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="unknown option 'dealy'; there are attempts, backoff, "):
        JobSpec.by_name("a").with_options(dealy="5m")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown option 'delay'"):
        define(by_name, delay="5m")
    with pytest.raises(OptionInvalid, match="attempts"):
        define(by_name, attempts=0)
    with pytest.raises(TypeError, match="unknown option 'retries'"):
        JobType("a", data=Welcome, retries=1)  # type: ignore[call-overload]


def test_options_that_are_allowed_are_taken() -> None:
    handler = define(by_name, attempts=5, backoff=Backoff.fixed("1s"), timeout="30s", retention=Retention(), priority=1)
    assert set(handler.defaults) == {"attempts", "backoff", "timeout", "retention", "priority"}


# -- versions ----------------------------------------------------------------


def upgrade_1(old: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"user": old["id"]}


def upgrade_2(old: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {"user_id": old["user"], "since": "1h"}


def test_old_payloads_are_upgraded_step_by_step() -> None:
    handler = define(by_name, version=3, upgrade={1: upgrade_1, 2: upgrade_2})
    registration = handler.registration()
    assert handler.job(7).version == 3
    assert call(registration, '{"id": 7}', 1) == (7, "1h")
    assert call(registration, '{"user": 7}', 2) == (7, "1h")
    assert call(registration, '{"user_id": 7}', 3) == (7, "24h")
    assert registration.knows(3)
    assert not registration.knows(4)
    with pytest.raises(UnknownJob, match="version 4; this worker knows versions up to 3"):
        registration.decode("{}", 4)


@pytest.mark.parametrize(
    ("data", "version", "words"),
    [
        ('{"user": 7}', 1, "the upgrade from version 1 raised KeyError"),
        ("[]", 1, "a JSON object is needed"),
        ('{"user": "x"}', 2, "it is of version 2, and the handler has no upgrade from 2 to 3"),
    ],
)
def test_an_upgrade_that_fails_is_a_payload_that_does_not_fit(data: str, version: int, words: str) -> None:
    registration = define(by_name, version=3, upgrade={1: upgrade_1}).registration()
    with pytest.raises(PayloadInvalid, match=words):
        registration.decode(data, version)


def test_an_upgrade_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="upgrade from version 2: it is now at version 2"):
        define(by_name, version=2, upgrade={2: upgrade_2}).registration()


# -- handlers as functions ---------------------------------------------------


def test_a_handler_is_called_as_its_function() -> None:
    handler = define(by_name)
    assert handler(7, since="1h") == (7, "1h")
    assert handler.__name__ == "by_name"
    assert handler.function is by_name
    assert "job" in repr(handler)
    assert handler.where.startswith("tests/unit/definitions/test_definitions.py:")


def test_what_wraps_a_function_keeps_its_parameters() -> None:
    @functools.wraps(by_name)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return by_name(*args, **kwargs)

    assert define(wrapped).job(7).data_json == '{"user_id":7,"since":"24h"}'


# -- executors ---------------------------------------------------------------


def module_of(name: str, **members: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(members)
    return module


def test_the_kind_follows_from_the_function_and_its_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def coroutine() -> None: ...

    class Doubler:
        async def __call__(self, n: int) -> int:
            return n

    assert define(coroutine).registration().kind == "async"
    assert define(Doubler()).registration().kind == "async"
    assert define(staticmethod(coroutine)).registration().kind == "async"
    assert define(Doubler()).job(1).data_json == '{"n":1}'
    assert define(nothing).registration().kind == "thread"
    assert define(nothing, executor="thread").registration().kind == "thread"
    handler = define(nothing, executor="process")
    monkeypatch.setitem(sys.modules, handler.__module__, module_of(handler.__module__, nothing=handler))
    assert handler.registration().kind == "process"


def test_a_process_must_be_able_to_find_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    def nested() -> None: ...

    async def coroutine() -> None: ...

    def script() -> None: ...

    script.__module__ = "__main__"
    for function, words in [
        (nested, "define it at the top level of a module"),
        (lambda: None, "define it at the top level of a module"),
        (by_name, "and that is another"),  # the module has the function, not the handler
        (script, "move it out of the script"),
        (coroutine, "make it a def for executor='process'"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            define(function, executor="process").registration()
    with pytest.raises(ConfigurationError, match="make it a def for executor='thread'"):
        define(coroutine, executor="thread").registration()


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((by_name,), {}, "needs the job's name or a JobType, not function"),
        (("a",), {"executor": "fiber"}, "executor: 'fiber' is not allowed"),
        (("a",), {"give_up_on": KeyboardInterrupt}, "give_up_on"),
        (("a",), {"give_up_on": ("x",)}, "give_up_on"),
        (("a",), {"backoff_for": {ValueError: "2s"}}, "backoff_for"),
        (("a",), {"backoff_for": Backoff.fixed("1s")}, "backoff_for"),
        ((CHARGE,), {"attempts": 5}, "attempts: the contract says it"),
        ((CHARGE,), {"version": 2}, "version: the contract says it"),
    ],
)
def test_wrong_arguments_of_the_decorator_are_refused_at_once(arguments: Any, options: Any, words: str) -> None:
    handlers: Any = Handlers("payments")
    with pytest.raises(TypeError, match=words):
        handlers.handler(*arguments, **options)
