"""The policy of a queue: what its JobQueue says to clients and workers, and which setting holds for one job.

It lies in Redis (key ``<prefix>:<queue>:bullpen:policy``, a hash of ``v``, ``rev``, ``doc``), written by the operator or by
`bullpen dev`, read by clients and workers. A queue without one has the values that are built in. All here is plain,
frozen values; nothing reads a clock.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import JsonValue, ValidationError

from bullpen import durations, options, retry
from bullpen.errors import ConfigurationError
from bullpen.options import Backoff, JobDefaults, Keep
from bullpen.queue import records
from bullpen.queue.records import Opts
from bullpen.retry import Source, Wish

if TYPE_CHECKING:
    from bullpen.api.v1alpha1 import JobPolicy, JobQueueSpec
    from bullpen.api.v1alpha1 import Retry as RetrySpec

VERSION: Final = "1"
"""The version of the policy's form in Redis."""

FIELDS: Final = (
    "closed",
    "concurrency",
    "expires",
    "jobs",
    "limits",
    "payloadSchema",
    "priorities",
    "rateLimit",
    "recovery",
    "retention",
    "retry",
    "timeout",
    "unknownHandler",
)
"""What of a JobQueue's spec is policy, by its names in YAML."""

HIGHEST_PRIORITY: Final = 2_097_151
"""BullMQ's bound: a priority has 21 bits. The smaller the number, the sooner the job; 0 is none."""

KeepJobs: TypeAlias = Mapping[str, int]
"""How long finished jobs are kept, as BullMQ's script takes it: ``age`` in seconds, ``count`` (-1: all)."""


@dataclass(frozen=True)
class Mark:
    """Names the settings of a job that came from elsewhere than its producer; lies in ``opts.bullpen.policy``.

    `policy` came from the queue's policy: a worker follows the policy of today. `code` came from the default of a
    handler or `JobType`: today's ``jobs`` entry of its name goes before it.
    """

    policy: frozenset[str] = frozenset()
    code: frozenset[str] = frozenset()

    def to_text(self) -> str:
        """Give ``"attempts,backoff*"``: names in order, those from code with a star; empty when there is none."""
        return ",".join(sorted({*self.policy, *(f"{name}*" for name in self.code)}))

    @classmethod
    def of(cls, opts: Opts) -> "Mark":
        """Read it from a job's options. Never raises."""
        text = records.bullpen_opts(opts).get("policy")
        names = text.split(",") if isinstance(text, str) else []
        return cls(
            frozenset(name for name in names if name and not name.endswith("*")),
            frozenset(name[:-1] for name in names if name.endswith("*")),
        )


@dataclass(frozen=True)
class JobRule:
    """What jobs of one name have of their own; None leaves it to the queue."""

    timeout_ms: int | None = None
    wish: Wish = field(default_factory=Wish)


@dataclass(frozen=True)
class Priorities:
    """Names for priorities, and what becomes of jobs that bring none."""

    levels: Mapping[str, int]
    default: str
    demote: bool = True
    """Whether jobs without a priority are filed under the default level, in place of being served first."""

    @property
    def default_number(self) -> int:
        """The number of the default level."""
        return self.levels[self.default]


@dataclass(frozen=True)
class RateLimit:
    """At most `jobs` start in each period of `per_ms`, over all workers."""

    jobs: int
    per_ms: int


@dataclass(frozen=True)
class Limits:
    """What is refused as too large or too much. Sizes in bytes of JSON; no limit of waiting jobs where it is None."""

    payload_bytes: int = 262_144
    result_bytes: int = 65_536
    waiting: int | None = None
    drop_oldest: bool = False


@dataclass(frozen=True)
class Recovery:
    """When a job whose worker died is taken back, and how often its process may die."""

    lock_duration_ms: int = 10_000
    check_interval_ms: int = 3_000
    max_crashes: int = 3


@dataclass(frozen=True)
class JobSettings:
    """What holds for one job, all sources considered."""

    retry: retry.Policy
    timeout_ms: int
    keep_completed: KeepJobs
    keep_failed: KeepJobs
    expires_at_ms: int | None = None
    """When the job itself says that it expires."""
    expires_after_ms: int | None = None
    """How long after it was due the queue lets it expire; only where the job itself says nothing."""

    def expiry_ms(self, timestamp_ms: int, delay_ms: int) -> int | None:
        """Give the time by which the job must have started once, else it fails as expired; None for never.

        `timestamp_ms` is when it was enqueued and `delay_ms` what its options say it was to wait from then.
        """
        if self.expires_at_ms is not None or self.expires_after_ms is None:
            return self.expires_at_ms
        return timestamp_ms + delay_ms + self.expires_after_ms


_COMPLETED: Final = Keep(timedelta(hours=24), 1000)
_FAILED: Final = Keep(timedelta(hours=168), 10_000)


@dataclass(frozen=True)
class QueuePolicy:
    """What clients and workers of a queue follow. The default is what is built in, for a queue that has none.

    `rev` names this content (empty: built in), `doc` is the JSON that lies in Redis.
    """

    rev: str = ""
    doc: str = "{}"
    closed: bool = False
    concurrency_per_worker: int = 10
    concurrency_total: int | None = None
    rate_limit: RateLimit | None = None
    timeout_ms: int = 600_000
    expires_ms: int | None = None
    retry: Wish = field(default_factory=Wish)
    priorities: Priorities | None = None
    jobs: Mapping[str, JobRule] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    payload_schema: Mapping[str, JsonValue] | None = None
    completed: Keep = _COMPLETED
    failed: Keep = _FAILED
    recovery: Recovery = field(default_factory=Recovery)
    unknown_after_ms: int = 3_600_000

    @classmethod
    def from_json(cls, doc: str | bytes) -> "QueuePolicy":
        """Read the document that lies in Redis. Fields of a newer version are passed over.

        Raises `ConfigurationError` when it cannot be read.
        """
        from bullpen.api.v1alpha1 import JobQueueSpec  # noqa: PLC0415 - 100 ms, and only queues with a policy need it

        text = doc.decode() if isinstance(doc, bytes) else doc
        try:
            spec = JobQueueSpec.model_validate_json(text, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            msg = (
                f"the queue's policy in Redis cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}; "
                "it was written by another version, or by hand: apply the JobQueue again"
            )
            raise ConfigurationError(msg) from None
        return cls._of(spec, text)

    @classmethod
    def from_spec(cls, spec: "JobQueueSpec") -> "QueuePolicy":
        """Give the policy of a JobQueue."""
        dumped: dict[str, JsonValue] = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        chosen = {name: dumped[name] for name in FIELDS if name in dumped}
        return cls._of(spec, json.dumps(chosen, sort_keys=True, separators=(",", ":"), ensure_ascii=False))

    @classmethod
    def _of(cls, spec: "JobQueueSpec", doc: str) -> "QueuePolicy":
        limits, recovery, rate, levels = spec.limits, spec.recovery, spec.rate_limit, spec.priorities
        return cls(
            rev=revision(doc),
            doc=doc,
            closed=spec.closed,
            concurrency_per_worker=spec.concurrency.per_worker,
            concurrency_total=spec.concurrency.total,
            rate_limit=None if rate is None else RateLimit(rate.jobs, _ms(rate.per)),
            timeout_ms=_ms(spec.timeout),
            expires_ms=None if spec.expires is None else _ms(spec.expires),
            retry=_wish(spec.retry),
            priorities=None
            if levels is None
            else Priorities(levels.levels, levels.default, demote=levels.unprioritized == "Demote"),
            jobs={job.name: _rule(job, spec.retry) for job in spec.jobs},
            limits=Limits(
                limits.payload_bytes, limits.result_bytes, limits.waiting, drop_oldest=limits.on_full == "DropOldest"
            ),
            payload_schema=spec.payload_schema,
            completed=Keep(spec.retention.completed.age, spec.retention.completed.count),
            failed=Keep(spec.retention.failed.age, spec.retention.failed.count),
            recovery=Recovery(_ms(recovery.lock_duration), _ms(recovery.check_interval), recovery.max_crashes),
            unknown_after_ms=_ms(spec.unknown_handler.after),
        )

    def with_revision(self, rev: str) -> "QueuePolicy":
        """Give the same content under the revision that lies beside it in Redis: that is what an add is checked against."""
        return self if rev == self.rev else replace(self, rev=rev)

    def settings_for(self, name: str, opts: Opts, code: JobDefaults | None = None) -> JobSettings:
        """Say what holds for a job of this name with these options, when `code` are its handler's defaults.

        Strongest first: the job's own option, the policy's entry for the name, the code's default, the policy's own,
        built in. What a client wrote for Node's sake is no option of the job's own (`Mark`). A backoff, a retention or a
        timeout that cannot be read counts as none. Reads no clock, so the answer may be kept by name and options.
        """
        mark = Mark.of(opts)
        code = code or {}
        rule = self.jobs.get(name, _NO_RULE)
        wishes = self._wishes(rule, opts, mark, code)
        ours = records.bullpen_opts(opts)
        own_timeout = _positive(ours.get("timeout"))
        timeout = code.get("timeout")
        code_timeout = None if timeout is None else options.duration_ms("timeout", timeout)
        return JobSettings(
            retry=retry.resolve(wishes),
            timeout_ms=own_timeout or rule.timeout_ms or code_timeout or self.timeout_ms,
            keep_completed=self._keep("removeOnComplete", opts, mark, code),
            keep_failed=self._keep("removeOnFail", opts, mark, code),
            expires_at_ms=_positive(ours.get("expires")),
            expires_after_ms=self.expires_ms,
        )

    def _wishes(self, rule: JobRule, opts: Opts, mark: Mark, code: JobDefaults) -> dict[Source, Wish]:
        job = Wish.from_wire(opts)
        # What came from the producer's code is a default of code here too, also where this worker's code has none.
        carried = Wish(
            job.attempts if "attempts" in mark.code else None,
            job.backoff if "backoff" in mark.code else None,
        )
        return {
            Source.JOB: Wish(
                None if "attempts" in mark.code else job.attempts,
                None if "backoff" in mark.code else job.backoff,
            ),
            Source.JOB_NAME: rule.wish,
            Source.CODE: Wish(
                carried.attempts or code.get("attempts"),
                carried.backoff or code.get("backoff"),
            ),
            Source.QUEUE: self.retry,
        }

    def _keep(
        self, option: Literal["removeOnComplete", "removeOnFail"], opts: Opts, mark: Mark, code: JobDefaults
    ) -> KeepJobs:
        completed = option == "removeOnComplete"
        own = None if option in mark.policy else Keep.from_wire(opts.get(option))
        retention = code.get("retention")
        default = None if retention is None else (retention.completed if completed else retention.failed)
        return keep_jobs(own or default or (self.completed if completed else self.failed))


_NO_RULE: Final = JobRule()
BUILT_IN: Final = QueuePolicy()
"""What holds for a queue that has no policy in Redis."""


def revision(doc: str) -> str:
    """Give the `rev` of a policy's document: equal documents have equal ones."""
    return hashlib.sha256(doc.encode()).hexdigest()[:16]


def keep_jobs(keep: Keep) -> KeepJobs:
    """Give the retention as BullMQ's "move to finished" takes it."""
    wire = keep.to_wire()
    if not isinstance(wire, dict):
        return {"count": -1}
    return {name: value for name, value in wire.items() if isinstance(value, int)}


def _rule(job: "JobPolicy", queue: "RetrySpec") -> JobRule:
    own = Wish()
    if job.retry is not None:
        backoff = None if job.retry.backoff is None else _wish(job.retry.over(queue)).backoff
        own = Wish(job.retry.attempts, backoff)
    return JobRule(None if job.timeout is None else _ms(job.timeout), own)


def _wish(spec: "RetrySpec") -> Wish:
    backoff = spec.backoff
    longest = backoff.longest if backoff.type in {"Exponential", "Linear"} and backoff.longest else None
    return Wish(
        spec.attempts,
        Backoff.from_spec(
            backoff.type, delay=backoff.delay, factor=backoff.factor, max_delay=longest, jitter=backoff.jitter
        ),
    )


def _ms(value: timedelta) -> int:
    return durations.parse_ms(value)


def _positive(value: JsonValue) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        return None
    return int(value)
