"""One job as it was asked for, and the options that it gets: the strongest source of each, written for the wire. Pure.

Everything that can be refused is refused before anything is sent, with an error that names the option, what was given and
what is allowed.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple, Protocol, TypeVar

from pydantic import JsonValue

from bullpen import durations, jobs, options
from bullpen.errors import OptionInvalid
from bullpen.options import EnqueueOptions, JobDefaults, Retention
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations.adding import JobShape
from bullpen.queue.policy import JobRule, Mark, QueuePolicy
from bullpen.queue.records import PROTOCOL

_LATER: Final = frozenset({"group", "on_failure"})
_LONGEST_ID: Final = 1024
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]*)")
_RESERVED_IDS: Final = frozenset(
    [
        "wait",
        "paused",
        "active",
        "prioritized",
        "delayed",
        "waiting-children",
        "completed",
        "failed",
        "marker",
        "meta",
        "id",
        "pc",
        "limiter",
        "stalled",
        "stalled-check",
        "events",
        "repeat",
        "bullpen",
    ]
)

_RESERVED_GROUPS: Final = frozenset({"de", "dn", "metrics"})
_BELOW_A_JOB: Final = frozenset({"lock", "logs", "dependencies", "processed", "failed", "unsuccessful"})

T = TypeVar("T")


class Enqueueable(Protocol):
    """What of a `JobSpec` an enqueue reads."""

    @property
    def name(self) -> str:
        """The job's name."""
        ...

    @property
    def data_json(self) -> str:
        """The payload as JSON text."""
        ...

    @property
    def options(self) -> EnqueueOptions:
        """What was asked for this one job."""
        ...

    @property
    def defaults(self) -> JobDefaults:
        """What its handler or `JobType` sets for all its jobs."""
        ...

    @property
    def version(self) -> int:
        """The version of the payload."""
        ...


class Request(NamedTuple):
    """One job that is to be enqueued, with its id. `data` is its payload as JSON text."""

    id: str
    name: str
    data: str
    options: EnqueueOptions
    defaults: JobDefaults
    version: int = 1

    @classmethod
    def of(cls, spec: Enqueueable, mint: Callable[[], str], more: EnqueueOptions | None = None) -> "Request":
        """Give the request for a `JobSpec`, with more options over its own.

        Raises `TypeError` for an unknown option, `OptionInvalid` for a value that is not allowed.
        """
        chosen = spec.options
        if more:
            jobs.check_options(more, EnqueueOptions)
            chosen = {**chosen, **more}
        if chosen:
            for name in _LATER & chosen.keys():
                msg = f"{name}: this version of Bullpen has no groups and no flows yet"
                raise OptionInvalid(msg)
            if "job_id" in chosen:
                job_id = check_id(chosen["job_id"])
                return cls(job_id, spec.name, spec.data_json, chosen, spec.defaults, spec.version)
        return cls(mint(), spec.name, spec.data_json, chosen, spec.defaults, spec.version)

    @property
    def is_singular(self) -> bool:
        """Whether the options hold for this one job: an id of its own, or a moment that depends on now."""
        chosen = self.options
        return bool(chosen) and ("job_id" in chosen or "expires" in chosen or isinstance(chosen.get("delay"), datetime))


class ShapeMaker:
    """Chooses each setting of one job, strongest source first, and remembers whose it is."""

    def __init__(self, keys: QueueKeys, policy: QueuePolicy, request: Request, now_ms: int) -> None:
        self._keys = keys
        self._policy = policy
        self._rule = policy.jobs.get(request.name, _NO_RULE)
        self._request = request
        self._options = request.options
        self._defaults = request.defaults
        self._now_ms = now_ms
        self._from_policy: set[str] = set()
        self._from_code: set[str] = set()

    def make(self) -> JobShape:
        """Give the shape. Raises `OptionInvalid` for what this queue does not allow."""
        deduplication = self._options.get("deduplication")
        delay_ms, priority = self._delay_ms(), self._priority()
        opts: dict[str, JsonValue] = {"attempts": self._attempts()}
        ours: dict[str, JsonValue] = {}
        if delay_ms:
            opts["delay"] = delay_ms
        if priority:
            opts["priority"] = priority
        lifo = self._options.get("lifo", False)
        if lifo:
            if priority:
                allowed = "only for a job without a priority; this one has one, or its queue gives it one"
                raise _invalid("lifo", value=True, allowed=allowed)
            opts["lifo"] = True
        if "job_id" in self._options:
            opts["jobId"] = self._request.id
        if deduplication is not None:
            opts["deduplication"] = deduplication.to_wire()
        self._backoff(opts, ours)
        self._retention(opts)
        if "timeout" in self._options:
            ours["timeout"] = options.duration_ms("timeout", self._options["timeout"])
        if "expires" in self._options:
            ours["expires"] = max(1, _moment_ms("expires", self._options["expires"], self._now_ms))
        if self._request.version != 1:
            ours["v"] = self._request.version
        mark = Mark(frozenset(self._from_policy), frozenset(self._from_code)).to_text()
        if mark:
            ours["policy"] = mark
        if ours:
            opts["bullpen"] = {"p": PROTOCOL, **ours}
        wire = None if deduplication is None else deduplication.to_wire()
        return JobShape(self._keys, self._request.name, opts, delay_ms, priority, lifo, wire)

    def _choose(self, name: str, own: T | None, rule: T | None, code: T | None, queue: T | None) -> T | None:
        if own is not None:
            return own
        if rule is not None:
            self._from_policy.add(name)
            return rule
        if code is not None:
            self._from_code.add(name)
            return code
        if queue is not None:
            self._from_policy.add(name)
        return queue

    def _attempts(self) -> int:
        chosen = self._choose(
            "attempts",
            self._options.get("attempts"),
            self._rule.wish.attempts,
            self._defaults.get("attempts"),
            self._policy.retry.attempts,
        )
        return chosen or 0  # which is what Node writes where nobody asked for any

    def _backoff(self, opts: dict[str, JsonValue], ours: dict[str, JsonValue]) -> None:
        chosen = self._choose(
            "backoff",
            self._options.get("backoff"),
            self._rule.wish.backoff,
            self._defaults.get("backoff"),
            self._policy.retry.backoff,
        )
        if chosen is None:
            return
        opts["backoff"] = chosen.to_wire()
        exact = chosen.to_text()
        if exact is not None:
            ours["backoff"] = exact

    def _retention(self, opts: dict[str, JsonValue]) -> None:
        # No entry of the policy by name has a retention, so one from code is as good as the job's own.
        own, code = self._options.get("retention", _ANY), self._defaults.get("retention", _ANY)
        policy = self._policy if self._policy.rev else None
        for name, asked, of_queue in (
            ("removeOnComplete", own.completed or code.completed, None if policy is None else policy.completed),
            ("removeOnFail", own.failed or code.failed, None if policy is None else policy.failed),
        ):
            if asked is not None:
                opts[name] = asked.to_wire()
            elif of_queue is not None:
                opts[name] = of_queue.to_wire()
                self._from_policy.add(name)

    def _priority(self) -> int:
        priorities = self._policy.priorities
        for asked in (self._options.get("priority"), self._defaults.get("priority")):
            number = self._level(asked) if isinstance(asked, str) else asked
            if number:
                return number
        if priorities is None:
            return 0
        self._from_policy.add("priority")
        return priorities.default_number

    def _level(self, name: str) -> int:
        levels = self._policy.priorities.levels if self._policy.priorities else {}
        if name in levels:
            return levels[name]
        names = ", ".join(sorted(levels, key=lambda level: levels[level]))
        queue = f"queue {self._keys.queue!r}"
        raise _invalid(
            "priority", name, f"the levels of {queue}: {names}" if names else f"a number: {queue} has no levels"
        )

    def _delay_ms(self) -> int:
        if "delay" in self._options:
            return max(0, _moment_ms("delay", self._options["delay"], self._now_ms) - self._now_ms)
        deduplication = self._options.get("deduplication")
        return 0 if deduplication is None else deduplication.default_delay_ms


_NO_RULE: Final = JobRule()
_ANY: Final = Retention()


def check_id(job_id: object) -> str:
    """Give the id if a job may have it.

    Raises `OptionInvalid` for what Node refuses (a bare integer, a colon) and for what would break the queue: the name of
    one of its own keys.
    """
    allowed = "text without a colon that is no bare integer (BullMQ mints those)"
    if not isinstance(job_id, str) or not job_id or ":" in job_id or _INTEGER.fullmatch(job_id):
        raise _invalid("job_id", job_id, allowed)
    if job_id in _RESERVED_IDS:
        raise _invalid("job_id", job_id, "text that is not the name of one of BullMQ's own keys")
    try:
        size = len(job_id.encode())
    except UnicodeEncodeError:
        raise _invalid("job_id", job_id, "text that can be written as UTF-8") from None
    if size > _LONGEST_ID:
        raise _invalid("job_id", f"{job_id[:40]}…", f"at most {_LONGEST_ID} bytes")
    return job_id


def check_known_id(job_id: object) -> str:
    """Give the id if there may be a job of it: whoever made it, also a scheduler (``repeat:<its id>:<time>``).

    Raises `OptionInvalid` for what names another of the queue's keys: it may come from a URL, and removing ``meta`` or
    ``bullpen:policy`` would remove the queue's settings.
    """
    if not isinstance(job_id, str) or not job_id or any("\ud800" <= letter <= "\udfff" for letter in job_id):
        raise _invalid("job id", job_id, "text that can be written as UTF-8")
    first, *more = job_id.split(":")
    is_run = first == "repeat" and len(more) >= 2 and more[-1].isdigit()
    is_old = len(more) == 2 and first not in _RESERVED_IDS | _RESERVED_GROUPS and more[-1] not in _BELOW_A_JOB
    if len(job_id) > _LONGEST_ID or not (is_run or is_old or (not more and first not in _RESERVED_IDS)):
        raise _invalid("job id", f"{job_id[:40]}…" if len(job_id) > 40 else job_id, "an id that a job can have")
    return job_id


def _moment_ms(name: str, value: durations.Duration | datetime, now_ms: int) -> int:
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return now_ms + options.duration_ms(name, value)


def _invalid(option: str, value: object, allowed: str) -> OptionInvalid:
    return OptionInvalid(f"{option}: {value!r} is not allowed; allowed: {allowed}")
