"""How a worker's slots are shared out over its processes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.redis.settings import RedisSettings
from bullpen_worker.reports.logs import LogSettings
from bullpen_worker.supervision.children import share_out, split
from bullpen_worker.supervision.config import WorkerConfig
from bullpen_worker.supervision.supervisor import Supervisor


@given(st.integers(1, 1000), st.integers(1, 64))
def test_slots_are_shared_out_evenly_and_completely(concurrency, processes):
    shares = split(concurrency, processes)
    assert sum(shares) == concurrency
    assert max(shares) - min(shares) <= 1
    assert len(shares) == processes


class Child:
    """A child as far as shares go."""

    serial = 1

    def __init__(self, place):
        self.place = place
        self.slots = 0

    def share(self, slots):
        if slots > 100:
            raise OSError("no memory")
        self.slots = slots


def test_each_child_has_the_share_of_its_place_whenever_it_was_started():
    started = [Child(1), Child(None), Child(2), Child(0)]  # the first was started anew, last
    share_out([4, 3, 2], started)
    assert [child.slots for child in started] == [3, 0, 2, 4]
    share_out([101, 5, 6], started)
    assert [child.slots for child in started] == [5, 0, 6, 4]


@pytest.mark.parametrize(
    ("concurrency", "processes", "shares"),
    [
        (None, 16, [4] * 16),
        (None, 3, [22, 21, 21]),
        (8, 16, [1] * 8),
        (8, 3, [3, 3, 2]),
    ],
)
def test_as_many_processes_as_asked_for_share_what_the_policy_gives(concurrency, processes, shares):
    log = LogSettings("q", "worker")
    supervisor = Supervisor(
        WorkerConfig("q", ("shop.jobs",), RedisSettings(), log, concurrency=concurrency, processes=processes)
    )
    supervisor.policy("r1", json.dumps({"concurrency": {"perWorker": 64}}))
    assert supervisor._shares == shares
    supervisor._room.table.close()
