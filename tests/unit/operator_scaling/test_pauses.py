"""What was alive when the collector was set to rest is not looked through again."""

import asyncio
import gc

from bullpen_operator import pauses
from tests.support.waiting import eventually


async def test_what_stays_is_set_aside(monkeypatch):
    monkeypatch.setattr(pauses, "EVERY_SECONDS", 0.001)
    before = gc.get_freeze_count()
    keeping = asyncio.create_task(pauses.keep_short())
    try:
        kept = [[number] for number in range(1_000)]
        await eventually(lambda: gc.get_freeze_count() > before + len(kept))
    finally:
        keeping.cancel()
        gc.unfreeze()
