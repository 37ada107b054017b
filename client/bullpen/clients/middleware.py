"""The shape of middleware around every enqueue; `bullpen.handling.middleware` has that around every attempt."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from bullpen.jobs import JobSpec

EnqueueMiddleware = Callable[[JobSpec[object]], AbstractContextManager[JobSpec[object]]]
"""A plain context manager around every enqueue, of both clients alike: what it yields is sent, errors arrive in it."""
