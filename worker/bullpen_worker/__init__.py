"""Runs the handlers of a queue: `Worker` in a program of yours, ``bullpen worker`` as a program of its own."""

from bullpen_worker.loading import load_handlers
from bullpen_worker.worker import Worker

__all__ = ["Worker", "load_handlers"]
