"""Options: what is refused, and what goes on the wire and comes back."""

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from bullpen.durations import Duration
from bullpen.errors import EnqueueError, OptionInvalid
from bullpen.options import MAX_DELAY_MS, Backoff, Deduplication, Keep, Retention, duration_ms


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Backoff.fixed(5), "backoff delay: 5 is not allowed.*no unit"),  # type: ignore[arg-type]
        (lambda: Backoff.fixed("soon"), "backoff delay: 'soon'"),
        (lambda: Backoff.fixed("9000h"), "backoff delay in milliseconds"),
        (lambda: Backoff.exponential("1s", factor=0.5), "backoff factor: 0.5 is not allowed; allowed: a number from 1"),
        (lambda: Backoff.exponential("1s", factor=float("nan")), "backoff factor"),
        (lambda: Backoff.exponential("1s", max_delay="0s"), "backoff max_delay"),
        (lambda: Backoff.fixed("1s", jitter=50), "backoff jitter: 50 is not allowed; allowed: a number from 0"),
        (lambda: Backoff("Sometimes"), "backoff: 'Sometimes'.*Exponential, Linear"),  # type: ignore[arg-type]
        (lambda: Backoff.from_spec("Fixed", delay="1s", jitter="101%"), "backoff jitter"),
        (lambda: Backoff.from_spec("Exponential", delay="1s", factor="fast"), "backoff factor"),
        (lambda: Deduplication.simple(""), "deduplication id"),
        (lambda: Deduplication.simple("half \ud800"), "deduplication id"),
        (lambda: Deduplication.simple(7), "deduplication id: 7"),  # type: ignore[arg-type]
        (lambda: Deduplication.throttle("x", "0s"), "deduplication ttl"),
        (lambda: Retention(completed="24h"), "retention completed: '24h'.*bullpen.Keep"),  # type: ignore[arg-type]
        (lambda: Keep(count=-1), "retention count: -1 is not allowed; allowed: a whole number from 0"),
        (lambda: Keep(count=True), "retention count"),
        (lambda: Keep(age="0s"), "retention age"),
        (lambda: Keep(age=3600), "retention age"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(make: Callable[[], object], says: str) -> None:
    with pytest.raises(OptionInvalid, match=says) as caught:
        make()
    assert isinstance(caught.value, EnqueueError)


@pytest.mark.parametrize(
    ("backoff", "wire", "text"),
    [
        (Backoff.fixed("5s"), {"type": "fixed", "delay": 5_000}, None),
        (Backoff.fixed("5s", jitter=0.5), {"type": "fixed", "delay": 5_000, "jitter": 0.5}, None),
        (Backoff.exponential("2s"), {"type": "exponential", "delay": 2_000}, None),
        (
            Backoff.exponential("2s", max_delay="1m", jitter=0.5),
            {"type": "exponential", "delay": 2_000, "jitter": 0.5},
            "e:2000:2:60000:0.5",
        ),
        (Backoff.exponential("2s", factor=1.5), {"type": "exponential", "delay": 2_000}, "e:2000:1.5::0"),
        (Backoff.linear("2s"), {"type": "fixed", "delay": 2_000}, "l:2000:2::0"),
        (Backoff.immediate(), {"type": "fixed", "delay": 0}, "i:0:2::0"),
    ],
)
def test_what_node_understands_and_what_is_more(backoff: Backoff, wire: dict[str, JsonValue], text: str | None) -> None:
    assert (backoff.to_wire(), backoff.to_text()) == (wire, text)


@given(
    st.builds(
        Backoff,
        kind=st.sampled_from(["Exponential", "Linear", "Fixed", "Immediate"]),
        delay_ms=st.integers(0, MAX_DELAY_MS),
        factor=st.floats(1, 100),
        max_delay_ms=st.none() | st.integers(1, MAX_DELAY_MS),
        jitter=st.floats(0, 1),
    )
)
def test_a_backoff_comes_back_from_the_wire(backoff: Backoff) -> None:
    wire = json.loads(json.dumps(backoff.to_wire()))
    back = Backoff.from_wire(wire, backoff.to_text())
    assert back is not None
    assert (back.kind, back.delay_ms, back.max_delay_ms, back.jitter) == (
        backoff.kind,
        backoff.delay_ms,
        backoff.max_delay_ms,
        backoff.jitter,
    )
    assert back.factor == backoff.factor or backoff.kind == "Fixed"


@pytest.mark.parametrize(
    ("wire", "text", "backoff"),
    [
        (None, None, None),
        (0, None, Backoff.fixed("0s")),
        (1.7, None, Backoff.fixed("1ms")),
        (-5, None, None),
        (float("nan"), None, None),
        (True, None, None),
        ("fixed", None, None),
        ({}, None, None),
        ({"type": "fixed"}, None, Backoff.fixed("0s")),
        ({"type": "fixed", "delay": "5"}, None, None),
        ({"type": "fixed", "delay": 1e300}, None, Backoff("Fixed", MAX_DELAY_MS)),
        ({"type": "fixed", "delay": 5, "jitter": 7}, None, Backoff("Fixed", 5, jitter=1.0)),
        ({"type": "fixed", "delay": 5, "jitter": "much"}, None, Backoff("Fixed", 5)),
        ({"type": "custom", "delay": 5}, None, None),
        ({"type": "custom", "delay": 5}, "l:5:2::0", Backoff.linear("5ms")),
        (5, "x:5:2::0", Backoff("Fixed", 5)),
        (5, "e:5:0.1::0", Backoff("Fixed", 5)),
        (5, ["e"], Backoff("Fixed", 5)),
    ],
)
def test_what_others_wrote_is_never_refused(wire: JsonValue, text: JsonValue, backoff: Backoff | None) -> None:
    assert Backoff.from_wire(wire, text) == backoff


@pytest.mark.parametrize(
    ("spec", "backoff"),
    [
        (
            {"kind": "Exponential", "delay": "2s", "factor": "2", "max_delay": "1m", "jitter": "50%"},
            Backoff.exponential("2s", max_delay="1m", jitter=0.5),
        ),
        ({"kind": "Exponential", "delay": "2s", "factor": "1.5"}, Backoff.exponential("2s", factor=1.5)),
        ({"kind": "Linear", "delay": "2s", "max_delay": "1m"}, Backoff.linear("2s", max_delay="1m")),
        ({"kind": "Fixed", "delay": "2s", "factor": "3", "max_delay": "1s"}, Backoff.fixed("2s")),
        ({"kind": "Immediate", "delay": "2s", "jitter": "50%"}, Backoff.immediate()),
        ({"kind": "Fixed", "delay": "99999h"}, Backoff("Fixed", MAX_DELAY_MS)),
    ],
)
def test_what_yaml_says(spec: dict[str, str], backoff: Backoff) -> None:
    assert Backoff.from_spec(**spec) == backoff  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("deduplication", "wire", "delay_ms"),
    [
        (Deduplication.simple("a"), {"id": "a"}, 0),
        (Deduplication.throttle("a", "5s"), {"id": "a", "ttl": 5_000}, 0),
        (Deduplication.debounce("a", "5s"), {"id": "a", "ttl": 5_000, "extend": True, "replace": True}, 5_000),
        (Deduplication.keep_last("a"), {"id": "a", "keepLastIfActive": True}, 0),
    ],
)
def test_deduplication_as_bullmq_has_it(
    deduplication: Deduplication, wire: dict[str, JsonValue], delay_ms: int
) -> None:
    assert (deduplication.to_wire(), deduplication.default_delay_ms) == (wire, delay_ms)


@pytest.mark.parametrize(
    ("keep", "wire"),
    [
        (Keep(), False),
        (Keep(count=0), {"count": 0}),
        (Keep(count=7), {"count": 7}),
        (Keep(age="168h", count=1000), {"age": 604_800, "count": 1_000}),
        (Keep(age="1ms"), {"age": 1}),
        (Keep(age=timedelta(seconds=1.5)), {"age": 2}),
    ],
)
def test_retention_as_bullmq_has_it(keep: Keep, wire: JsonValue) -> None:
    assert keep.to_wire() == wire
    back = Keep.from_wire(wire)
    assert back is not None
    assert back.to_wire() == wire


@pytest.mark.parametrize(
    ("wire", "keep"),
    [
        (None, None),
        ("all", None),
        (True, Keep(count=0)),
        (False, Keep()),
        (-1, Keep()),
        (7, Keep(count=7)),
        (1e300, Keep(count=10**9)),
        ({"age": "x", "count": -1}, Keep()),
        ({"age": 1e300}, Keep(age="99999h")),
    ],
)
def test_retention_that_others_wrote(wire: JsonValue, keep: Keep | None) -> None:
    read = Keep.from_wire(wire)
    assert (read and read.to_wire()) == (keep and keep.to_wire())


@pytest.mark.parametrize("value", ["-1s", "soon", timedelta(seconds=-1), 5])
def test_a_duration_that_is_none_is_told_with_what_would_be_one(value: Duration) -> None:
    with pytest.raises(OptionInvalid) as caught:
        duration_ms("delay", value)
    allowed = 'allowed: a timedelta that is not negative, or text like "500ms", "30s", "5m" or "1h30m"'
    assert str(caught.value).startswith(f"delay: {value!r} is not allowed; {allowed}")
