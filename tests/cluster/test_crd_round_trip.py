"""A law instead of cases: a spec that the API server takes the models take, and the other way, and both mean the same.

Specs are drawn from the CRD itself, most fields as they should be, some a little off: beyond a bound, of another type, text
that a pattern does not want. What neither can say is in `test_crd_rules.ONLY_CHECKS`.
"""

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bullpen.api import crd, files
from bullpen.api.v1alpha1 import ClusterRedisConnection, JobQueue, RedisConnection
from tests.cluster.crd_cases import an_object
from tests.support.kubernetes.api import Api, ApiError

LISTS_UP_TO = 3
LENGTHS = ["1s", "2s", "5s", "1m", "10m", "0s", "90s", "99999h", "1h30m", "1ms", "999ms", "100ms", "99ms"]
PLAIN = ["a", "b", "emails", "emails-dead", "A", "shop.jobs", "UTC", "Europe/Berlin", "0 8 * * 1", "1"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def often(likely: st.SearchStrategy[Any], unlikely: st.SearchStrategy[Any], share: int = 40) -> st.SearchStrategy[Any]:
    """Draw the unlikely one once in `share` times."""
    return st.integers(0, share).flatmap(lambda number: unlikely if number == share else likely)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a node of a structural schema, and some that are none."""
    off = anything | st.integers() | texts
    if schema.get("x-kubernetes-int-or-string"):
        shares = st.integers(-1, 101).map(lambda number: f"{number}%")
        return often(st.integers(-1, 10_001) | shares | st.sampled_from([0, "0%", 1, "1%"]), off)
    if "enum" in schema:
        return often(st.sampled_from(schema["enum"]), off)
    match schema["type"]:
        case "boolean":
            return often(st.booleans(), off)
        case "integer":
            return often(integers(schema), off)
        case "string":
            return often(strings(schema), off)
        case "array":
            fewest = min(schema.get("minItems", 0), LISTS_UP_TO)
            items = values(schema["items"])
            return often(often(st.lists(items, min_size=fewest, max_size=LISTS_UP_TO), st.just([])), off)
        case _ if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
            return often(st.dictionaries(texts, anything, max_size=3), off)
        case _ if "additionalProperties" in schema:
            keys = st.sampled_from(["high", "low", "a", "b"])
            return often(st.dictionaries(often(keys, texts), values(schema["additionalProperties"]), max_size=3), off)
        case _:
            return often(objects(schema), off)


def integers(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", 0), schema.get("maximum", 2**31)
    small = st.integers(low, min(low + 5, high))
    return (
        small | st.integers(low, high) | often(small, st.sampled_from([low - 1, high + 1, float(low), low + 0.5]), 10)
    )


def strings(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    rules = json.dumps(schema.get("x-kubernetes-validations", ""))
    if "duration(self)" in rules:
        matching = st.sampled_from(LENGTHS) | st.from_regex(schema["pattern"], fullmatch=True)
    elif "rediss" in rules:
        matching = often(
            st.sampled_from(["rediss://a:1", "rediss://b:1/0"]), st.sampled_from(["redis://a:1/3", "redis://u@a:1"]), 6
        )
    elif "pattern" in schema:
        matching = st.from_regex(schema["pattern"], fullmatch=True) | st.sampled_from(PLAIN)
    else:
        matching = st.sampled_from(PLAIN) | texts
    if schema.get("maxLength", math.inf) <= 253:
        length = schema["maxLength"]
        matching = often(matching, st.sampled_from(["a" * length, "a" * (length + 1), "ß" * length]))
    return matching


def objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Some of the fields: the required ones nearly always, of the others a few; now and then one that is unknown."""
    fields = schema["properties"]
    required = list(schema.get("required", ()))
    optional = [name for name in fields if name not in required]

    def of(names: list[str]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries({name: values(fields[name]) for name in dict.fromkeys(names)})

    some = st.lists(st.sampled_from(optional), max_size=4) if optional else st.just([])
    complete = some.flatmap(lambda names: of([*required, *names]))
    incomplete = some.flatmap(of)
    return often(often(complete, incomplete), complete.map(lambda made: {**made, "later": 1}))


def spec_of(kind: str) -> dict[str, Any]:
    [version] = crd.definition(kind)["spec"]["versions"]  # type: ignore[index,call-overload]
    return dict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])  # type: ignore[call-overload,arg-type,index]


def stored(api: Api, obj: dict[str, Any]) -> dict[str, Any] | None:
    """What the API server would store; None where it refuses."""
    try:
        return api.create(obj, dry_run=True)
    except ApiError as error:
        if error.status not in {400, 422} or "cost" in error.message:
            raise
        return None


def read(obj: dict[str, Any]) -> JobQueue | RedisConnection | ClusterRedisConnection | None:
    """What the models make of it; None where they refuse."""
    try:
        return files.validate(obj)
    except ValidationError:
        return None


REPLICAS = spec_of("JobQueue")["properties"]["replicas"]
"""What the scale subresource reads: the one whole number that must not be written as 3.0."""


def as_stored(value: Any) -> Any:
    """What an API server makes of JSON before it looks at it: `null` fields of an object go, 3.0 is 3."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def without_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """Take away fields that are null where the schema knows them, as the API server does before it validates."""
    if schema == REPLICAS:
        return value
    value = as_stored(value) if schema.get("type") == "integer" or schema.get("x-kubernetes-int-or-string") else value
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        return {
            name: without_nulls(each, known[name]) if name in known else each
            for name, each in value.items()
            if each is not None or name not in known
        }
    if isinstance(value, list) and "items" in schema:
        return [without_nulls(each, schema["items"]) for each in value]
    if isinstance(value, dict) and "additionalProperties" in schema:
        return {name: without_nulls(each, schema["additionalProperties"]) for name, each in value.items()}
    return value


@pytest.fixture(scope="module")
def shop(bullpen_api: Api) -> str:
    return bullpen_api.namespace("round-trip")


@pytest.mark.parametrize("kind", crd.ENVELOPES)
def test_the_api_server_takes_what_the_models_take(bullpen_api: Api, shop: str, kind: str):
    hold_law(bullpen_api, shop, kind, examples=120)


@pytest.mark.prove
@pytest.mark.parametrize("kind", crd.ENVELOPES)
def test_the_api_server_takes_what_the_models_take_at_length(bullpen_api: Api, shop: str, kind: str):
    hold_law(bullpen_api, shop, kind, examples=5_000)


def test_the_whole_number_that_scale_reads_is_written_as_one(bullpen_api: Api, shop: str):
    for replicas, taken in ((3, True), (3.0, False)):
        obj = an_object("JobQueue", {"replicas": replicas}, namespace=shop)
        assert (stored(bullpen_api, obj) is not None) is taken
        assert (read(obj) is not None) is taken


def hold_law(api: Api, namespace: str, kind: str, examples: int) -> None:
    schema = spec_of(kind)
    seen: Counter[bool] = Counter()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(objects(schema))
    def law(spec: Any) -> None:
        obj = an_object(kind, spec, namespace=namespace)
        of_server = stored(api, obj)
        of_models = read(an_object(kind, without_nulls(spec, schema), namespace=namespace))
        seen[of_models is not None] += 1
        assert (of_server is not None) == (of_models is not None)
        if of_server is None or of_models is None:
            return
        back = read(of_server)  # with all defaults filled in
        assert back is not None
        assert back.spec == of_models.spec
        again = stored(api, {**of_models.to_dict(), "metadata": obj["metadata"]})
        assert again is not None  # as the models write it
        written = read(again)
        assert written is not None
        assert written.spec == of_models.spec

    law()
    assert min(seen[True], seen[False]) > examples / 20, f"the specs are too much alike: {seen}"
