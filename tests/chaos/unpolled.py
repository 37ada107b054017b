"""Handlers that record, in a child that never looks by itself whether there are jobs: what starts was started by what woke it."""

from __future__ import annotations

from bullpen_worker.running import fetching, markers
from tests.chaos.recorded import handlers

__all__ = ["handlers"]

fetching.POLL_MS = 3_600_000
markers.BLOCK_S = 3_600
