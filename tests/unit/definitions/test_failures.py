"""Errors as they are written to Redis: bounded, and never the cause of another."""

import asyncio
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen import Payload, PayloadInvalid, durations, errors
from bullpen.handling import failures
from bullpen.handling.failures import MAX_REASON_BYTES, MAX_STACK_BYTES, describe


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Declined(Exception):
    pass


def raised(error: BaseException) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - of any kind
        raise error
    return caught.value


def recursing(n: int = 0) -> int:
    return other_half(n)


def other_half(n: int) -> int:  # two, so that the traceback module does not fold them
    return recursing(n + 1)


@pytest.mark.parametrize(
    ("error", "error_type", "reason"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (ValueError(), "ValueError", "ValueError"),
        (KeyError("x"), "KeyError", "'x'"),
        (Declined("no funds"), f"{__name__}.Declined", "no funds"),
        (errors.NonRetryableError("no"), "bullpen.NonRetryableError", "no"),
        (PayloadInvalid("no"), "bullpen.PayloadInvalid", "no"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError", "CancelledError"),
        (SystemExit(3), "SystemExit", "the handler called sys.exit(3)"),
        (Broken(), f"{__name__}.Broken", "Broken, whose message cannot be shown"),
        (ValueError("half \ud800 pair"), "ValueError", "half \\ud800 pair"),
        (ExceptionGroup("some", [ValueError("a")]), "ExceptionGroup", "some (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_type_and_reason(error: BaseException, error_type: str, reason: str) -> None:
    failure = describe(raised(error))
    assert (failure.error_type, failure.reason) == (error_type, reason)
    assert "raised" in failure.stack


def test_the_stack_has_the_application_s_frames_and_none_of_ours() -> None:
    class Model(Payload):
        n: int

    from bullpen import Handlers

    handler = Handlers("a").handler("a")(lambda: None)
    with pytest.raises(TypeError) as caught:
        handler.job(1)  # type: ignore[call-arg]
    stack = describe(caught.value).stack
    assert "test_failures.py" in stack
    assert failures.__file__.rpartition("/")[0] not in stack
    assert stack.endswith("TypeError: a.job(): this job takes no arguments\n")


def test_frames_of_any_of_our_rooms_are_left_out() -> None:
    with pytest.raises(ValueError, match="soon") as caught:
        durations.parse_ms("soon")
    stack = describe(caught.value).stack
    assert "test_failures.py" in stack
    assert durations.__file__ not in stack


def test_the_cause_is_told_and_without_our_frames_too() -> None:
    error = Declined("outer")
    error.__cause__ = raised(ValueError("inner"))
    stack = describe(raised(error)).stack
    assert stack.index("ValueError: inner") < stack.index("The above exception") < stack.index("Declined: outer")


def test_a_group_is_told_with_its_members() -> None:
    failure = describe(raised(ExceptionGroup("some", [raised(ValueError("a")), raised(KeyError("b"))])))
    assert "ValueError: a" in failure.stack
    assert "KeyError: 'b'" in failure.stack


def test_the_deepest_recursion_is_told_in_bounds() -> None:
    with pytest.raises(RecursionError) as caught:
        recursing()
    failure = describe(caught.value)
    assert failure.error_type == "RecursionError"
    assert len(failure.stack.encode()) <= MAX_STACK_BYTES
    assert "recursing" in failure.stack


def test_at_the_bottom_of_a_recursion_too() -> None:
    def at_the_bottom(depth: int) -> failures.Failure:
        try:
            return at_the_bottom(depth + 1)
        except RecursionError as error:
            return describe(error)

    assert at_the_bottom(0).error_type == "RecursionError"
    assert sys.getrecursionlimit() > 0


def test_a_chain_as_long_as_it_likes_is_bounded() -> None:
    error: BaseException = ValueError("first")
    for number in range(300):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = following
    assert len(describe(error).stack.encode()) <= MAX_STACK_BYTES


@given(st.text(max_size=5_000), st.integers(1, 40))
def test_any_message_is_told_in_bounds(text: str, times: int) -> None:
    failure = describe(raised(ValueError(text * times)))
    assert len(failure.reason.encode()) <= MAX_REASON_BYTES
    assert len(failure.stack.encode()) <= MAX_STACK_BYTES
    if len((text * times).encode()) <= MAX_REASON_BYTES:
        assert failure.reason == (text * times or "ValueError")
    assert failure.reason.rstrip("…") == (text * times)[: len(failure.reason.rstrip("…"))] or not text


def test_long_stacks_keep_their_beginning_and_their_end() -> None:
    failure = describe(raised(ValueError("x" * 50_000 + " the end")))
    assert failure.stack.startswith("Traceback")
    assert failure.stack.endswith("the end\n")
    assert "\n  …\n" in failure.stack


class Nasty(Exception):
    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


def test_what_cannot_be_shown_says_so() -> None:
    failure = describe(raised(Nasty("a")))
    assert failure.reason == "a"
    assert failure.stack
