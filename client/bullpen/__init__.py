"""Bullpen: job queues for Kubernetes, in Python."""

from bullpen._version import __version__
from bullpen.client import Client
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
from bullpen.handles import JobHandle, SyncJobHandle
from bullpen.jobs import JobEvent, JobInfo, JobSpec, JobType
from bullpen.middleware import EnqueueMiddleware, RunMiddleware, RunNext
from bullpen.options import Backoff, Deduplication, EnqueueOptions, JobDefaults, Keep, Retention
from bullpen.payloads import BigInt, Json, JsonObject, Payload
from bullpen.queues import Queue, SyncQueue
from bullpen.redis.settings import RedisSettings
from bullpen.registrations import Handler
from bullpen.sync_client import SyncClient

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
