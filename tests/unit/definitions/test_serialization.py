"""Values to JSON and back by their declared type, and what is refused, in words without values."""

import contextlib
import dataclasses
import decimal
import enum
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from typing_extensions import TypedDict

from bullpen import BigInt, Json, JsonObject, Payload, serialization
from bullpen.errors import ConfigurationError
from bullpen.serialization import Misfit

SECRET = "hunter2"


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Options(TypedDict, total=False):
    width: int


class Base(BaseModel):
    a: int


class Sub(Base):
    password: str


class Welcome(Payload):
    user_id: int
    picture: bytes = b""
    ratio: float = 1.0


class Tree(BaseModel):
    name: str
    children: "list[Tree]" = []


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
UTC_PLUS_2 = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        (None, None, "null"),
        (int, 7, "7"),
        (int, 2**80, "1208925819614629174706176"),
        (BigInt, 2**80, '"1208925819614629174706176"'),
        (list[BigInt], [-5], '["-5"]'),
        (str, "naïve 🐂", '"naïve 🐂"'),
        (bool, True, "true"),
        (datetime, datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC), '"2027-01-02T03:04:05Z"'),
        (datetime, datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC_PLUS_2), '"2027-01-02T03:04:05+02:00"'),
        (datetime, datetime(2027, 1, 2, 3, 4, 5), '"2027-01-02T03:04:05"'),  # noqa: DTZ001 - as it is
        (date, date(2027, 1, 2), '"2027-01-02"'),
        (time, time(3, 4, 5), '"03:04:05"'),
        (timedelta, timedelta(minutes=5), '"PT5M"'),
        (decimal.Decimal, decimal.Decimal("1.10"), '"1.10"'),
        (uuid.UUID, uuid.UUID(int=7), '"00000000-0000-0000-0000-000000000007"'),
        (AnyUrl, AnyUrl("https://example.com/a"), '"https://example.com/a"'),
        (pathlib.Path, pathlib.Path("/tmp/a"), '"/tmp/a"'),
        (Colour, Colour.RED, '"red"'),
        (Point, Point(1), '{"x":1,"y":0.5}'),
        (Options, {"width": 3}, '{"width":3}'),
        (set[int], {1}, "[1]"),
        (tuple[int, str], (1, "a"), '[1,"a"]'),
        (list[Point], [Point(1, 2.0)], '[{"x":1,"y":2.0}]'),
        (dict[int, str], {1: "a"}, '{"1":"a"}'),
        (bytes, b"abc", '"abc"'),
        (Welcome, Welcome(user_id=7, picture=b"\xff\xfe"), '{"userId":7,"picture":"__4=","ratio":1.0}'),
        (Tree, Tree(name="a", children=[Tree(name="b")]), '{"name":"a","children":[{"name":"b","children":[]}]}'),
        (int | None, None, "null"),
        (Pet, Dog(), '{"kind":"dog"}'),
        (JsonValue, {"a": [1, None, "x", {"b": 1.5}]}, '{"a":[1,null,"x",{"b":1.5}]}'),
        (dict[str, JsonValue], {"a": 1}, '{"a":1}'),
        (Mapping[str, JsonValue], {"a": 1}, '{"a":1}'),
        (JsonObject, {"a": 1}, '{"a":1}'),
        (Json, [1], "[1]"),
        (dict, {}, "{}"),
        (TypeAdapter(list[int]), [1], "[1]"),
    ],
)
def test_there_and_back(declared: Any, value: object, text: str) -> None:
    codec = serialization.codec(declared)
    assert codec.encode(value) == text
    assert codec.decode(text) == value
    assert codec.decode(text.encode()) == value


def shows_another(error: BaseException) -> bool:
    """Whether a traceback shows another error with it: pydantic's own repeats the value."""
    return error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__)


def cyclic() -> Any:
    value: dict[str, Any] = {"inner": {}}
    value["inner"]["again"] = value
    return value


def deep() -> Any:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("declared", "value", "words"),
    [
        (None, SECRET, "nothing (None) was declared, not str"),
        (int, SECRET, "int was declared, not str"),
        (Welcome, Welcome.model_construct(user_id=SECRET), "user_id: int was declared, not str"),
        (Welcome, {"user_id": 1}, "Welcome was declared, not dict"),
        (Welcome, Base(a=1), "userId: field required"),  # pydantic writes {} without a warning
        (list[Welcome], [Base(a=1)], "0.userId: field required"),
        (Options, {"width": "x"}, "width: int was declared, not str"),
        (float, math.nan, "NaN, infinity"),
        (list[float], [1.0, math.inf], "[1]: NaN, infinity"),
        (BaseModel, {"a": 1}, "BaseModel was declared, not dict"),
        (Point, Point(1, math.nan), "y: NaN, infinity"),
        (bytes, b"\xff", "bytes that are not UTF-8 need base64"),
        (list[bytes], [b"a", b"\xff"], "1: bytes that are not UTF-8"),
        (dict[str, bytes], {"photo": b"\xff"}, "photo: bytes that are not UTF-8"),
        (JsonValue, {"a": [b"x"]}, "a[0]: bytes is not a JSON type"),
        (JsonValue, {"a": {"when": datetime(2027, 1, 1, tzinfo=UTC)}}, "a.when: datetime is not a JSON type"),
        (JsonValue, {"a": {1: SECRET}}, "a: keys must be text, not int"),
        (JsonValue, {"a": math.nan}, "a: NaN, infinity"),
        (JsonValue, {"a": "\ud800"}, "a: the text has half of a surrogate pair"),
        (JsonValue, [10**5_000], "[0]: NaN, infinity and numbers of thousands of digits are not JSON"),
        (JsonValue, {SECRET}, "set is not a JSON type"),
        (dict[str, JsonValue], cyclic(), "inner.again: it contains itself"),
        (JsonValue, deep(), "nested deeper than 200 levels"),
        (dict[str, JsonValue], [1], "a JSON object is needed, not list"),
        (list[Any], [cyclic()], "Circular reference"),
        (Pet, Point(1), "does not fit its declared type"),
    ],
)
def test_what_is_no_json_is_refused_in_words_without_values(declared: Any, value: object, words: str) -> None:
    with pytest.raises(Misfit) as caught:
        serialization.codec(declared).encode(value)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not shows_another(caught.value)


@pytest.mark.parametrize(
    ("declared", "text", "words"),
    [
        (int, '"hunter2"', "input should be a valid integer"),
        (Welcome, '{"userId": "hunter2"}', "userId: input should be a valid integer"),
        (Welcome, "{}", "userId: field required"),
        (Welcome, '{"userId": 1, "picture": "hunter2!"}', "picture: data should be valid base64"),
        (Welcome, '{"userId": 1, "ratio": NaN}', "ratio: input should be a finite number"),
        (
            Tree,
            '{"name": "a", "children": [{"name": {"hunter2": 1}}]}',
            "children.0.name: input should be a valid string",
        ),
        (Pet, '{"kind": "hunter2"}', "'kind' is none of 'cat', 'dog'"),
        (Tree, "hunter2", "invalid JSON"),
        (JsonValue, "hunter2", "not JSON"),
        (JsonValue, '{"a": NaN}', "not JSON"),
        (JsonValue, "", "not JSON"),
        (JsonValue, "[" * 10_000, "not JSON: recursion limit"),
        (JsonValue, b"\xff\xfe", "not JSON"),
        (dict[str, JsonValue], "[1]", "a JSON object is needed, not an array"),
        (dict[str, JsonValue], "null", "a JSON object is needed, not null"),
        (dict[str, JsonValue], "true", "a JSON object is needed, not a boolean"),
        (None, '"hunter2"', "null is needed, not a string"),
    ],
)
def test_what_does_not_fit_is_refused_in_words_without_values(declared: Any, text: str, words: str) -> None:
    with pytest.raises(Misfit) as caught:
        serialization.codec(declared).decode(text)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not shows_another(caught.value)


@pytest.mark.parametrize("around", [lambda inner: [inner], lambda inner: {"a": inner}])
@pytest.mark.parametrize("declared", [JsonValue, dict[str, Any], dict[str, list[JsonValue]]])
def test_what_is_written_is_not_too_deep_to_be_read(around: Any, declared: Any) -> None:
    codec: serialization.Codec[Any] = serialization.codec(declared)
    value: Any = 7
    for _ in range(serialization.MOST_LEVELS - 2):
        value = around(value)
    text = codec.encode({"a": [value]})
    assert codec.encode(codec.decode(text)) == text
    with pytest.raises(Misfit, match=r"nested deeper|recursion limit"):
        codec.encode({"a": [around(value)]})


def test_many_problems_are_counted_and_keys_are_cut() -> None:
    problems = {f"{number}{'x' * 300}": "a" for number in range(9)}
    with pytest.raises(Misfit) as caught:
        serialization.codec(dict[str, int]).decode(json.dumps(problems))
    assert "and 4 more" in str(caught.value)
    assert len(str(caught.value)) < 1_500


def test_what_a_subclass_adds_does_not_travel() -> None:
    assert serialization.codec(Base).encode(Sub(a=1, password=SECRET)) == '{"a":1}'


def test_unknown_fields_are_passed_over_and_both_spellings_read() -> None:
    codec = serialization.codec(Welcome)
    assert codec.decode('{"user_id": 7, "since": 1}') == codec.decode('{"userId": "7"}') == Welcome(user_id=7)


def test_a_payload_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Welcome(user_id=7).user_id = 8  # type: ignore[misc]


def test_a_number_is_read_as_a_big_int_too_and_stays_one_in_python() -> None:
    class Ledger(Payload):
        cents: BigInt

    assert serialization.codec(Ledger).decode('{"cents": 5}') == Ledger(cents=5)
    assert Ledger(cents=5).model_dump() == {"cents": 5}
    with pytest.raises(Misfit, match="cents"):
        serialization.codec(Ledger).decode('{"cents": "5.5"}')


def test_the_models_own_setting_for_bytes_holds_elsewhere() -> None:
    class Photo(BaseModel):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        raw: bytes

    codec = serialization.codec(Photo)
    assert codec.decode(codec.encode(Photo(raw=b"\xff"))) == Photo(raw=b"\xff")


def test_a_type_that_pydantic_does_not_know_says_so() -> None:
    class Socket:
        pass

    with pytest.raises(ConfigurationError, match=r"Socket.*cannot be written as JSON"):
        serialization.codec(Socket)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"userId": 7}, '{"userId":7}'),
        (Welcome(user_id=7), '{"userId":7,"picture":"","ratio":1.0}'),
        (Point(1), '{"x":1,"y":0.5}'),
        (Sub(a=1, password="p"), '{"a":1,"password":"p"}'),
    ],
)
def test_an_enqueue_by_name_takes_an_object_a_model_a_dataclass(value: object, text: str) -> None:
    assert serialization.encode_object(value) == text


@pytest.mark.parametrize("value", [7, "text", [1], {"a": b""}, {1: 2}, Point])
def test_an_enqueue_by_name_refuses_the_rest(value: object) -> None:
    with pytest.raises(Misfit):
        serialization.encode_object(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert serialization.decode_json(serialization.encode_json(value)) == value


class Everything(Payload):
    number: int
    big: BigInt
    text: str
    raw: bytes
    real: float = Field(allow_inf_nan=False)
    when: datetime
    day: date
    wait: timedelta
    price: decimal.Decimal
    key: uuid.UUID
    maybe: int | None
    names: list[str]
    unique: frozenset[int]
    pair: tuple[int, bool]
    options: dict[str, float]
    point: Point


POINTS = st.builds(Point, st.integers(), st.floats(allow_nan=False, allow_infinity=False))
REALS = st.floats(allow_nan=False, allow_infinity=False)
EVERYTHING = st.builds(
    Everything,
    number=st.integers(),
    big=st.integers(),
    text=st.text(),
    raw=st.binary(),
    real=REALS,
    when=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    wait=st.timedeltas(timedelta(0), timedelta(days=900_000)),
    price=st.decimals(allow_nan=False, allow_infinity=False, places=2),
    key=st.uuids(),
    maybe=st.none() | st.integers(),
    names=st.lists(st.text(), max_size=3),
    unique=st.frozensets(st.integers(), max_size=3),
    pair=st.tuples(st.integers(), st.booleans()),
    options=st.dictionaries(st.text(), REALS, max_size=3),
    point=POINTS,
)


@given(EVERYTHING)
def test_a_model_comes_back_as_it_was(value: Everything) -> None:
    codec = serialization.codec(Everything)
    text = codec.encode(value)
    assert codec.decode(text) == value


@given(st.text())
def test_any_text_is_read_or_refused_and_never_breaks(text: str) -> None:
    for declared in (Everything, Welcome, dict[str, JsonValue], JsonValue, int):
        codec: serialization.Codec[Any] = serialization.codec(declared)
        with contextlib.suppress(Misfit):
            codec.decode(text)


def test_why_it_is_no_json_is_told_also_to_one_who_is_deep_in_a_stack() -> None:
    def called(levels: int) -> str:
        if levels:
            return called(levels - 1)
        with pytest.raises(Misfit) as caught:
            serialization.codec(JsonValue).encode(deep())
        return str(caught.value)

    assert "nested deeper than 200 levels" in called(sys.getrecursionlimit() - 600)
