"""Ids of jobs."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from bullpen import uuid7


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_they_are_uuids_of_version_7_with_their_time(now_ms, random):
    made = uuid.UUID(uuid7.mint(now_ms, lambda _: random))
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, now_ms)
    assert str(made) == uuid7.mint(now_ms, lambda _: random)


@given(st.integers(0, 2**48 - 2), st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_they_sort_by_time(now_ms, one, other):
    assert uuid7.mint(now_ms, lambda _: one) < uuid7.mint(now_ms + 1, lambda _: other)


def test_they_differ():
    assert len({uuid7.mint(1) for _ in range(10_000)}) == 10_000


def test_a_minted_id_is_one_that_a_job_may_have():
    from bullpen.queue.requests import check_id

    assert check_id(uuid7.mint(1))
