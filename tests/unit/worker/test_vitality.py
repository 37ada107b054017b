"""Liveness and readiness, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bullpen_worker.supervision.vitality import Vitals, health, readiness

WELL = Vitals(serial=1, ready=True, age_ms=90_000, beat_ms=500, fetch_ms=4_000, slots=10, busy=3, in_time=True)


@pytest.mark.parametrize(
    ("why", "change", "redis_up_ms", "holds", "alive"),
    [
        ("all is well", {}, 90_000, False, True),
        ("it starts", {"ready": False, "age_ms": 200_000}, 400_000, False, True),
        ("it does not get to its start", {"ready": False, "age_ms": 301_000}, 400_000, False, False),
        ("it cannot start without Redis", {"ready": False, "age_ms": 900_000}, None, False, True),
        ("a handler holds the GIL within its time", {"beat_ms": 60_000, "fetch_ms": 60_000}, 90_000, False, True),
        (
            "its loop stands still and nothing in it is in time",
            {"beat_ms": 16_000, "in_time": False},
            90_000,
            False,
            False,
        ),
        ("it has free slots and does not fetch", {"fetch_ms": 61_000}, 90_000, False, False),
        ("it has free slots, and Redis is away", {"fetch_ms": 61_000}, None, False, True),
        ("it has free slots, and Redis has just come back", {"fetch_ms": 61_000}, 5_000, False, True),
        ("it has no free slot", {"fetch_ms": 600_000, "busy": 10}, 900_000, False, True),
        ("it is to fetch nothing", {"fetch_ms": 600_000}, 900_000, True, True),
        ("its slots are lent to suspects", {"fetch_ms": 600_000, "slots": 0, "busy": 0}, 900_000, False, True),
    ],
)
def test_liveness(why, change, redis_up_ms, holds, alive):
    verdict = health([WELL, replace(WELL, **change)], redis_up_ms=redis_up_ms, holds=holds)
    assert verdict.ok is alive, why
    assert verdict.text


@pytest.mark.parametrize(
    ("started", "connected", "stopping", "retiring", "busy", "ready"),
    [
        (False, True, False, False, 0, False),
        (True, False, False, False, 0, False),
        (True, True, False, False, 0, True),
        (True, True, True, False, 5, False),
        (True, True, False, True, 5, True),
        (True, True, False, True, 0, False),
    ],
)
def test_readiness(started, connected, stopping, retiring, busy, ready):
    verdict = readiness(started=started, connected=connected, stopping=stopping, retiring=retiring, busy=busy)
    assert verdict.ok is ready
