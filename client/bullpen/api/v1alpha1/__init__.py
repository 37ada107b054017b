"""`bullpen.dev/v1alpha1`: JobQueue, RedisConnection, ClusterRedisConnection.

The single source of what these objects may say: the CRDs, the operator, the local mode, clients and workers follow it.
"""

from bullpen.api.v1alpha1.base import Model
from bullpen.api.v1alpha1.connections import (
    Auth,
    ClusterRedisConnection,
    ClusterRedisConnectionSpec,
    ConnectionStatus,
    RedisConnection,
    RedisConnectionSpec,
    Tls,
)
from bullpen.api.v1alpha1.execution import (
    HIGHEST_PRIORITY_NUMBER,
    Backoff,
    BackoffOverride,
    Concurrency,
    JobPolicy,
    Priorities,
    RateLimit,
    Recovery,
    Retry,
    RetryOverride,
    UnknownHandler,
)
from bullpen.api.v1alpha1.jobqueue import DEFAULT_PREFIX, Alerts, Deletion, JobQueue, JobQueueSpec, RedisReference
from bullpen.api.v1alpha1.meta import API_VERSION, Condition, JobQueueMetadata, KeyReference, Metadata
from bullpen.api.v1alpha1.rules import Violation
from bullpen.api.v1alpha1.scaling import Behavior, Mode, Scaling, ScalingPolicy, ScalingRules, Window
from bullpen.api.v1alpha1.schedules import Schedule
from bullpen.api.v1alpha1.status import JobCounts, JobQueueStatus, QueueStatus, ScalingStatus
from bullpen.api.v1alpha1.storage import CompletedRetention, DeadLetter, FailedRetention, Limits, Retention
from bullpen.api.v1alpha1.workers import EnvVar, ScaleTargetRef, Strategy, Worker, WorkerPoolRef

KINDS: dict[str, type[JobQueue | RedisConnection | ClusterRedisConnection]] = {
    "JobQueue": JobQueue,
    "RedisConnection": RedisConnection,
    "ClusterRedisConnection": ClusterRedisConnection,
}
"""The models by `kind`."""

__all__ = [
    "API_VERSION",
    "DEFAULT_PREFIX",
    "HIGHEST_PRIORITY_NUMBER",
    "KINDS",
    "Alerts",
    "Auth",
    "Backoff",
    "BackoffOverride",
    "Behavior",
    "ClusterRedisConnection",
    "ClusterRedisConnectionSpec",
    "CompletedRetention",
    "Concurrency",
    "Condition",
    "ConnectionStatus",
    "DeadLetter",
    "Deletion",
    "EnvVar",
    "FailedRetention",
    "JobCounts",
    "JobPolicy",
    "JobQueue",
    "JobQueueMetadata",
    "JobQueueSpec",
    "JobQueueStatus",
    "KeyReference",
    "Limits",
    "Metadata",
    "Mode",
    "Model",
    "Priorities",
    "QueueStatus",
    "RateLimit",
    "Recovery",
    "RedisConnection",
    "RedisConnectionSpec",
    "RedisReference",
    "Retention",
    "Retry",
    "RetryOverride",
    "ScaleTargetRef",
    "Scaling",
    "ScalingPolicy",
    "ScalingRules",
    "ScalingStatus",
    "Schedule",
    "Strategy",
    "Tls",
    "UnknownHandler",
    "Violation",
    "Window",
    "Worker",
    "WorkerPoolRef",
]
