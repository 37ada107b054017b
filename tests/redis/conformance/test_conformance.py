"""What a harness says must be what a worker on Redis does."""

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.redis.conformance import sides
from tests.redis.conformance.playing import Scenario
from tests.redis.conformance.scenarios import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_both_sides_tell_the_same(scenario: Scenario, bullpen_redis: str, tmp_path: Path) -> None:
    in_memory: Any = await scenario(sides.in_memory, tmp_path)
    on_redis: Any = await scenario(functools.partial(sides.on_redis, bullpen_redis), tmp_path)
    assert in_memory == on_redis
