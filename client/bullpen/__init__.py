"""Bullpen: job queues for Kubernetes, in Python.

What talks to Redis is imported when it is first asked for: a module that only defines jobs, as most do, is imported in half
the time.
"""

import importlib
from typing import TYPE_CHECKING, Final

from bullpen._version import __version__
from bullpen.contexts import BaseContext, CancelReason, Context, SyncContext
from bullpen.durations import Duration
from bullpen.errors import (
    BlockingCallWarning,
    BullpenError,
    Cancel,
    ConfigurationError,
    EnqueueError,
    EnqueueUncertain,
    JobCancelled,
    JobFailed,
    JobGone,
    JobNotEnded,
    JobScheduled,
    JobSignal,
    NonRetryableError,
    OptionInvalid,
    PayloadInvalid,
    PayloadTooLarge,
    QueueClosed,
    QueueFull,
    RateLimited,
    RedisUnavailable,
    ResultInvalid,
    ResultTimeout,
    RetryableError,
    Snooze,
    UnknownJob,
)
from bullpen.handlers import Handlers
from bullpen.jobs import JobEvent, JobInfo, JobSpec, JobType
from bullpen.middleware import EnqueueMiddleware, RunMiddleware, RunNext
from bullpen.options import Backoff, Deduplication, EnqueueOptions, JobDefaults, Keep, Retention
from bullpen.payloads import BigInt, Json, JsonObject, Payload
from bullpen.registrations import Handler

if TYPE_CHECKING:
    from bullpen.client import Client
    from bullpen.handles import JobHandle, SyncJobHandle
    from bullpen.queues import Queue, SyncQueue
    from bullpen.redis.settings import RedisSettings
    from bullpen.sync_client import SyncClient

_LAZY: Final = {
    "Client": "bullpen.client",
    "JobHandle": "bullpen.handles",
    "Queue": "bullpen.queues",
    "RedisSettings": "bullpen.redis.settings",
    "SyncClient": "bullpen.sync_client",
    "SyncJobHandle": "bullpen.handles",
    "SyncQueue": "bullpen.queues",
}

__all__ = [
    "Backoff",
    "BaseContext",
    "BigInt",
    "BlockingCallWarning",
    "BullpenError",
    "Cancel",
    "CancelReason",
    "Client",
    "ConfigurationError",
    "Context",
    "Deduplication",
    "Duration",
    "EnqueueError",
    "EnqueueMiddleware",
    "EnqueueOptions",
    "EnqueueUncertain",
    "Handler",
    "Handlers",
    "JobCancelled",
    "JobDefaults",
    "JobEvent",
    "JobFailed",
    "JobGone",
    "JobHandle",
    "JobInfo",
    "JobNotEnded",
    "JobScheduled",
    "JobSignal",
    "JobSpec",
    "JobType",
    "Json",
    "JsonObject",
    "Keep",
    "NonRetryableError",
    "OptionInvalid",
    "Payload",
    "PayloadInvalid",
    "PayloadTooLarge",
    "Queue",
    "QueueClosed",
    "QueueFull",
    "RateLimited",
    "RedisSettings",
    "RedisUnavailable",
    "ResultInvalid",
    "ResultTimeout",
    "Retention",
    "RetryableError",
    "RunMiddleware",
    "RunNext",
    "Snooze",
    "SyncClient",
    "SyncContext",
    "SyncJobHandle",
    "SyncQueue",
    "UnknownJob",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        msg = f"module 'bullpen' has no attribute {name!r}"
        raise AttributeError(msg)
    found: object = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = found
    return found
