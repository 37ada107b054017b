"""What a function's parameters make of a payload, its return annotation of a result, and what is refused."""

import types
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NoReturn

import pytest
from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypedDict

from bullpen import (
    BaseContext,
    ConfigurationError,
    Context,
    JsonObject,
    Payload,
    PayloadInvalid,
    ResultInvalid,
    SyncContext,
)
from tests.support.definitions import Page, Point, Receipt, Welcome, call, define


class Size(TypedDict):
    width: int


class Letter(BaseModel):
    to: str


# -- parameters and payload --------------------------------------------------


def nothing() -> Any:
    return ()


def model(ctx: SyncContext[None], data: Welcome) -> Any:
    return data


def model_by_keyword(*, data: Welcome) -> Any:
    return data


def a_dataclass(p: Point) -> Any:
    return p


def typed_dict(size: Size) -> Any:
    return size


def union(event: Page | Letter) -> Any:
    return event


def annotated(page: Annotated[Page, Field(description="…")]) -> Any:
    return page


NO_PAGE = Page(text="none")


def model_with_default(page: Page = NO_PAGE) -> Any:
    return page


def raw(data: dict[str, JsonValue]) -> Any:
    return data


def raw_mapping(data: Mapping[str, JsonValue]) -> Any:
    return data


def raw_object(data: JsonObject) -> Any:
    return data


def bare_dict(data: dict) -> Any:  # type: ignore[type-arg]
    return data


def any_json(data: JsonValue) -> Any:
    return data


def by_name(user_id: int, *, since: str = "24h") -> Any:
    return user_id, since


def one_by_name(path: str) -> Any:
    return path


def many_by_name(paths: list[str]) -> Any:
    return paths


def numbers_by_name(counts: dict[str, int]) -> Any:
    return counts


def maybe_model(page: Page | None = None) -> Any:
    return page


def two_models(page: Page, letter: Letter) -> Any:
    return page, letter


def odd_names(copy: int, _id: int, model_x: int, json: bytes) -> Any:
    return copy, _id, model_x, json


def mutable_default(names: list[str] = ["a"]) -> Any:  # noqa: B006 - functions allow it, dataclasses do not
    return names


def constrained(n: Annotated[int, Field(gt=0, alias="number")]) -> Any:
    return n


def untyped(a, b=2) -> Any:  # type: ignore[no-untyped-def]
    return a, b


def nested_types(when: datetime, wait: timedelta, point: Point) -> Any:
    return when, wait, point


MOMENT = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "data", "given"),
    [
        (nothing, (), {}, "{}", ()),
        (model, (Welcome(user_id=7),), {}, '{"userId":7,"locale":"en"}', Welcome(user_id=7)),
        (model, (), {"data": Welcome(user_id=7)}, '{"userId":7,"locale":"en"}', Welcome(user_id=7)),
        (model_by_keyword, (), {"data": Welcome(user_id=7)}, '{"userId":7,"locale":"en"}', Welcome(user_id=7)),
        (a_dataclass, (Point(1),), {}, '{"x":1,"y":0}', Point(1)),
        (typed_dict, ({"width": 1},), {}, '{"width":1}', {"width": 1}),
        (union, (Letter(to="a"),), {}, '{"to":"a"}', Letter(to="a")),
        (annotated, (Page(),), {}, '{"text":""}', Page()),
        (model_with_default, (), {}, '{"text":"none"}', Page(text="none")),
        (raw, ({"userId": 7},), {}, '{"userId":7}', {"userId": 7}),
        (raw_mapping, ({"userId": 7},), {}, '{"userId":7}', {"userId": 7}),
        (raw_object, ({"userId": 7},), {}, '{"userId":7}', {"userId": 7}),
        (bare_dict, ({"userId": 7},), {}, '{"userId":7}', {"userId": 7}),
        (any_json, ([1, None],), {}, "[1,null]", [1, None]),
        (by_name, (7,), {}, '{"user_id":7,"since":"24h"}', (7, "24h")),
        (by_name, (7,), {"since": "1h"}, '{"user_id":7,"since":"1h"}', (7, "1h")),
        (one_by_name, ("/a",), {}, '{"path":"/a"}', "/a"),
        (many_by_name, (["a"],), {}, '{"paths":["a"]}', ["a"]),
        (numbers_by_name, ({"a": 1},), {}, '{"counts":{"a":1}}', {"a": 1}),
        (maybe_model, (), {}, '{"page":null}', None),
        (
            two_models,
            (Page(), Letter(to="a")),
            {},
            '{"page":{"text":""},"letter":{"to":"a"}}',
            (Page(), Letter(to="a")),
        ),
        (odd_names, (1, 2, 3, b"\xff"), {}, '{"copy":1,"_id":2,"model_x":3,"json":"_w=="}', (1, 2, 3, b"\xff")),
        (mutable_default, (), {}, '{"names":["a"]}', ["a"]),
        (constrained, (1,), {}, '{"number":1}', 1),
        (untyped, ([1],), {}, '{"a":[1],"b":2}', ([1], 2)),
        (
            nested_types,
            (MOMENT, timedelta(minutes=5), Point(1)),
            {},
            '{"when":"2027-01-01T00:00:00Z","wait":"PT5M","point":{"x":1,"y":0}}',
            (MOMENT, timedelta(minutes=5), Point(1)),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_arguments_become_the_payload_and_come_back(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], data: str, given: object
) -> None:
    handler = define(function)
    spec = handler.job(*args, **kwargs)
    assert spec.data_json == data
    assert call(handler.registration(), data) == given
    assert call(handler.registration(), data.encode()) == given


@pytest.mark.parametrize(
    ("function", "data", "given"),
    [
        (by_name, '{"user_id": "7", "later": 1}', (7, "24h")),  # defaults, unknown fields, lax
        (mutable_default, "{}", ["a"]),
        (nothing, '{"a": 1}', ()),
        (model, '{"user_id": 7, "x": 1}', Welcome(user_id=7)),
    ],
)
def test_payloads_of_others_are_read_kindly(function: Callable[..., Any], data: str, given: object) -> None:
    assert call(define(function).registration(), data) == given


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (by_name, ("7",), "the payload of job 'job' does not fit: user_id: int was declared, not str"),
        (constrained, (0,), "number: input should be greater than 0"),
        (model, (Page(),), "userId: field required"),
        (typed_dict, ({},), "width: field required"),
        (raw, ({"a": b""},), "a: bytes is not a JSON type"),
        (raw, ([],), "a JSON object is needed, not list"),
        (by_name, (7.5,), "user_id: int was declared, not float"),
    ],
)
def test_wrong_data_stops_at_job(function: Callable[..., Any], args: tuple[Any, ...], words: str) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        define(function).job(*args)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (nothing, (1,), {}),
        (by_name, (), {}),
        (by_name, (7, "1h"), {}),
        (by_name, (7,), {"sinse": "1h"}),
        (model, (), {"user_id": 7}),
        (model_by_keyword, (Welcome(user_id=7),), {}),
    ],
)
def test_arguments_that_do_not_match_are_a_type_error(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"job\.job\(\): "):
        define(function).job(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "data", "words"),
    [
        (model, "{}", "userId: field required"),
        (by_name, '{"user_id": []}', "user_id: input should be a valid integer"),
        (by_name, "[7]", "input should be"),
        (raw, "7", "a JSON object is needed, not a number"),
        (any_json, "hello", "not JSON"),
    ],
)
def test_payloads_that_do_not_fit_are_refused(function: Callable[..., Any], data: str, words: str) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        define(function, "mail").registration().decode(data, 1)
    assert str(caught.value).startswith("the payload of job 'mail' does not fit: ")
    assert words in str(caught.value)


# -- annotations -------------------------------------------------------------


def forward(data: "Later") -> "Later":
    return data


early = define(forward)


class Later(Payload):
    n: int


def test_annotations_are_resolved_at_first_use() -> None:
    assert early.job(Later(n=1)).data_json == '{"n":1}'


def test_types_of_an_enclosing_function_are_found() -> None:
    class Inner(Payload):
        n: int

    def function(data: "Inner") -> "int":
        return Inner(n=data.n).n

    assert define(function).job(Inner(n=1)).data_json == '{"n":1}'


def unresolvable(data: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


def unannotated_context(ctx, data: Welcome) -> None:  # type: ignore[no-untyped-def]
    ...


def late_context(data: Welcome, ctx: SyncContext[None]) -> None: ...
def starred(*paths: str) -> None: ...
def double_starred(**paths: str) -> None: ...
def positional(path: str, /) -> None: ...
async def async_with_sync(ctx: SyncContext[None]) -> None: ...
def sync_with_async(ctx: Context[None]) -> None: ...
def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def unknown_type(data: types.ModuleType, other: int) -> None: ...
def unknown_result() -> types.ModuleType: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            unresolvable,
            "its annotations cannot be resolved: name 'Nowhere' is not defined; is the type imported outside",
        ),
        (unannotated_context, "annotate ctx as Context[...]"),
        (late_context, "the context must be the first parameter, not ctx"),
        (starred, "*paths has no place"),
        (double_starred, "*paths has no place"),
        (positional, "path is positional-only"),
        (async_with_sync, "an async def takes Context, not SyncContext"),
        (sync_with_async, "a def takes SyncContext, not Context"),
        (generator, "does not yield"),
        (async_generator, "does not yield"),
        (unknown_type, "its parameter data: module cannot be written as JSON"),
        (
            unknown_result,
            "module cannot be written as JSON: Unable to generate pydantic-core schema for <class 'module'>",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_load_with_its_place(function: Callable[..., Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        define(function, "mail").registration()
    assert str(caught.value).startswith("handler 'mail' (tests/unit/definitions/test_signatures.py:")
    assert words in str(caught.value)


def test_a_context_is_found_by_its_annotation_alone() -> None:
    def middle(c: BaseContext[None], data: Welcome) -> None: ...

    async def plain(c: Context) -> None: ...  # type: ignore[type-arg]

    assert define(middle).registration().takes_context
    assert define(plain).registration().takes_context
    assert not define(by_name).registration().takes_context


# -- results -----------------------------------------------------------------


def gives_receipt() -> Receipt:
    return Receipt(message_id="a")


def gives_nothing() -> None: ...
def gives_whatever():  # type: ignore[no-untyped-def]
    return {"a": [1]}


def never() -> NoReturn:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "result", "text"),
    [
        (gives_receipt, Receipt(message_id="a"), '{"messageId":"a"}'),
        (gives_nothing, None, "null"),
        (gives_whatever, {"a": [1]}, '{"a":[1]}'),
        (never, None, "null"),
    ],
)
def test_results_are_written_by_the_return_annotation(function: Callable[..., Any], result: object, text: str) -> None:
    handler = define(function)
    assert handler.registration().encode(result) == text
    assert handler.read_result(text) == result
    assert handler.registration().read_result(text) == result


def test_a_result_of_another_type_is_refused() -> None:
    with pytest.raises(ResultInvalid, match=r"messageId: field required .what the handler did is done"):
        define(gives_receipt).registration().encode(Page())
    with pytest.raises(ResultInvalid, match="the result of job 'job' does not fit: messageId: field required"):
        define(gives_receipt).read_result("{}")
