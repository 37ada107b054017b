"""Handlers in a child that does not fetch: the first one to import this, while the file named by CHAOS_DEAF is there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bullpen_worker.running.fetching import Fetcher
from tests.chaos.jobs import handlers

__all__ = ["handlers"]


async def _never(_fetcher: Fetcher) -> None:
    await asyncio.Event().wait()


def _be_deaf() -> None:
    marker = Path(os.environ["CHAOS_DEAF"])
    if marker.exists():
        marker.unlink()
        Fetcher._fetch_one = _never


_be_deaf()
