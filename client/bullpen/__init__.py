"""Bullpen: job queues for Kubernetes, in Python.

What talks to Redis is imported when it is first asked for: a module that only defines jobs, as most do, is imported in half
the time.
"""

import importlib
from typing import TYPE_CHECKING, Final

from bullpen._version import __version__
from bullpen.clients.middleware import EnqueueMiddleware
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
from bullpen.handling.contexts import BaseContext, CancelReason, Context, SyncContext
from bullpen.handling.handlers import Handlers
from bullpen.handling.middleware import RunMiddleware, RunNext
from bullpen.handling.registrations import Handler
from bullpen.jobs import JobEvent, JobInfo, JobSpec, JobType
from bullpen.options import Backoff, Deduplication, EnqueueOptions, JobDefaults, Keep, Retention
from bullpen.payloads import BigInt, Json, JsonObject, Payload

if TYPE_CHECKING:
    from bullpen.clients.client import Client
    from bullpen.clients.handles import JobHandle, SyncJobHandle
    from bullpen.clients.queues import Queue, SyncQueue
    from bullpen.clients.sync_client import SyncClient
    from bullpen.redis.settings import RedisSettings

_LAZY: Final = {
    "Client": "bullpen.clients.client",
    "JobHandle": "bullpen.clients.handles",
    "Queue": "bullpen.clients.queues",
    "RedisSettings": "bullpen.redis.settings",
    "SyncClient": "bullpen.clients.sync_client",
    "SyncJobHandle": "bullpen.clients.handles",
    "SyncQueue": "bullpen.clients.queues",
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
