"""The commands of a worker as bytes, packed ahead as far as they are known.

A finish-and-fetch-next has 25 arguments, of which four differ from job to job. Everything else is packed once: per queue
the keys, per distinct job settings the options map. What is left per job is one ``%`` on bytes (half a microsecond,
against seven for packing it whole).

KEYS and ARGV follow BullMQ's scripts ``moveToActive-11``, ``moveToFinished-14``, ``retryJob-11``, ``moveToDelayed-11``,
``moveJobFromActiveToWait-9``, ``updateProgress-3`` and ``addLog-2``. The options map of ``moveToFinished`` must be complete
every time: a script that raises for want of a field has already done its earlier writes.

All times are integer milliseconds since the epoch. Nothing here does I/O.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgpack

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.lua import Script

TOKEN_LENGTH: Final = 26
"""Length of every lock token that this worker uses: fixed, so that the packed options map has a fixed length too."""

_TOKEN_SLOT = "?" * TOKEN_LENGTH

_ACTIVE_KEYS = (
    "wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused", "meta", "pc", "marker",
)  # fmt: skip
_RATE_LIMIT_VALUE: Final = 9007199254740991  # Number.MAX_SAFE_INTEGER, what BullMQ's Queue.rateLimit() writes


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """What an ack carries of its job's settings, packed; one object for all jobs of the same settings."""

    before: bytes
    after: bytes
    size: int
    """With the token in between."""
    shared: bytes
    """The map without a token, as an argument of a command."""


@dataclass(frozen=True, slots=True)
class FinishSettings:
    """What an ack needs to know of its job's settings.

    `keep_completed` and `keep_failed` are BullMQ's keepJobs maps: ``{"count": n, "age": seconds}``; count -1 keeps all,
    0 removes at once. `attempts` only decides whether ``retries-exhausted`` is emitted. `failure_flags` are those of
    ``fpof``, ``cpof``, ``idof``, ``rdof`` that the job's options set.
    """

    attempts: int
    keep_completed: Mapping[str, int]
    keep_failed: Mapping[str, int]
    failure_flags: tuple[str, ...] = ()


class Completion(NamedTuple):
    """A job that is completed, with its result as JSON."""

    job_id: bytes
    token: bytes
    value: bytes
    options: FinishOptions


class Templates:
    """Packs the commands of one worker on one queue.

    `worker_name` is written to the job as ``pb``; `metrics_points` is how many minutes of ``metrics:*`` counts are kept, 0 for
    none. With `armed_limiter_ms` fetches honour a ``limiter`` key also on a queue whose ``meta`` has no rate limit; where it has one, that
    is its period.
    """

    def __init__(
        self,
        keys: QueueKeys,
        *,
        worker_name: str,
        lock_ms: int,
        metrics_points: int,
        armed_limiter_ms: int | None = None,
    ) -> None:
        self._base = keys.base.encode()
        self._nudge = pack(b"PUBLISH", keys.nudge.encode(), b"limited")
        self._metrics_points = metrics_points
        self._fetch_map: dict[str, object] = {"lockDuration": lock_ms, "name": worker_name}
        if armed_limiter_ms is not None:
            self._fetch_map["limiter"] = {"max": _RATE_LIMIT_VALUE, "duration": armed_limiter_ms}

        key = {name: self._base + name.encode() for name in (*_ACTIVE_KEYS, "completed", "failed")}
        self.marker_key: Final = key["marker"]
        self.limiter_key: Final = key["limiter"]
        self.active_key: Final = key["active"]
        self.cancelled_key: Final = keys.cancelled.encode()
        base = _escape(_bulk(self._base))
        fetch = self._pack_map({})
        self._fetch_options = fetch
        token_map = b"$%d\r\n" % fetch.size + b"%b%b%b\r\n"

        active = (key[name] for name in _ACTIVE_KEYS)
        self._fetch = _command("moveToActive-11", active, 3) + base + b"$13\r\n%d\r\n" + token_map
        self._finish = {
            (target, fetches, with_fields): self._finish_template(key, target, fetches=fetches, with_fields=with_fields)
            for target in ("completed", "failed")
            for fetches in (True, False)
            for with_fields in (True, False)
        }
        many = (
            *(key[name] for name in _ACTIVE_KEYS[:10]),
            key["completed"],
            self._base + b"metrics:completed",
            key["marker"],
        )
        self._complete_many = _evalsha(lua.complete_many(), many) + base + b"$13\r\n%d\r\n"
        self._completed_and_fetch = self._finish["completed", True, False]
        self._completed = self._finish["completed", False, False]
        order: tuple[str, ...] = (
            "active",
            "wait",
            "paused",
            "",
            "meta",
            "events",
            "delayed",
            "prioritized",
            "pc",
            "marker",
            "stalled",
        )
        self._retry = (
            _command("retryJob-11", map(key.get, order), 6)
            + base
            + b"$13\r\n%d\r\n$5\r\n%b\r\n$%d\r\n%b\r\n$26\r\n%b\r\n$%d\r\n%b\r\n"
        )
        order = ("marker", "active", "prioritized", "delayed", "", "events", "meta", "stalled", "wait", "limiter", "pc")
        self._delay = (
            _command("moveToDelayed-11", map(key.get, order), 9)
            + base
            + b"$13\r\n%d\r\n$%d\r\n%b\r\n$26\r\n%b\r\n$%d\r\n%d\r\n$1\r\n%d\r\n$%d\r\n%b\r\n$1\r\n%d\r\n"
            + token_map
        )
        order = ("active", "wait", "stalled", "paused", "meta", "limiter", "prioritized", "marker", "events")
        self._release = (
            _command("moveJobFromActiveToWait-9", map(key.get, order), 3) + b"$%d\r\n%b\r\n$26\r\n%b\r\n$%d\r\n%b\r\n"
        )
        self._progress = (
            _command("updateProgress-3", (None, key["events"], key["meta"]), 2) + b"$%d\r\n%b\r\n$%d\r\n%b\r\n"
        )
        self._log = _command("addLog-2", (None, None), 3) + b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        self._rate_limit = (
            b"*6\r\n" + _evalsha(lua.ours("limit-starts-1"), [self.limiter_key])
            + _escape(_bulk(b"%d" % _RATE_LIMIT_VALUE)) + b"$%d\r\n%d\r\n"
        )  # fmt: skip
        self.wake: Final = pack(b"ZADD", self.marker_key, b"0", b"0")

    # -- options -------------------------------------------------------------

    def finish_options(self, settings: FinishSettings) -> tuple[FinishOptions, FinishOptions]:
        """Pack what acks of these settings carry: for ``completed`` and for ``failed``."""
        shared: dict[str, object] = {
            "attempts": settings.attempts,
            "maxMetricsSize": self._metrics_points or "",
            **dict.fromkeys(settings.failure_flags, True),
        }
        completed = self._pack_map({**shared, "keepJobs": dict(settings.keep_completed)})
        failed = self._pack_map({**shared, "keepJobs": dict(settings.keep_failed)})
        return completed, failed

    def _pack_map(self, more: Mapping[str, object]) -> FinishOptions:
        packed = msgpack.packb({"token": _TOKEN_SLOT, **self._fetch_map, **more})
        before, after = packed.split(_TOKEN_SLOT.encode(), 1)
        return FinishOptions(before, after, len(packed), _bulk(msgpack.packb({**self._fetch_map, **more})))

    # -- commands ------------------------------------------------------------

    def fetch(self, token: bytes, now_ms: int) -> bytes:
        """Take (moveToActive) the next job, if there is one to take."""
        options = self._fetch_options
        return self._fetch % (now_ms, options.before, token, options.after)

    def completed(
        self, job_id: bytes, token: bytes, now_ms: int, value: bytes, options: FinishOptions, *, fetch: bool
    ) -> bytes:
        """Finish the job: moveToFinished to ``completed``, with or without fetching the next job under the same token."""
        size = len(job_id)
        template = self._completed_and_fetch if fetch else self._completed
        return template % (
            len(self._base) + size, job_id, size, job_id, now_ms, len(value), value,
            options.size, options.before, token, options.after,
        )  # fmt: skip

    def complete_many(self, completions: Sequence[Completion], now_ms: int) -> bytes:
        """Complete the jobs and fetch as many, each under the token of its own; answers a list of what `completed` answers."""
        words = 18 + 4 * len(completions)
        packed = [b"*%d\r\n" % words, self._complete_many % now_ms]
        packed += [
            b"$%d\r\n%b\r\n$%d\r\n%b\r\n$26\r\n%b\r\n%b"
            % (len(job_id), job_id, len(value), value, token, options.shared)
            for job_id, token, value, options in completions
        ]
        return b"".join(packed)

    def failed(
        self,
        job_id: bytes,
        token: bytes,
        now_ms: int,
        reason: bytes,
        options: FinishOptions,
        *,
        fields: Mapping[str, str],
        fetch: bool,
    ) -> bytes:
        """Finish the job: moveToFinished to ``failed``; `fields` are written to the job's hash in the same script."""
        size = len(job_id)
        extra = pack_fields(fields)
        return self._finish["failed", fetch, bool(extra)] % (
            len(self._base) + size, job_id, size, job_id, now_ms, len(reason), reason,
            options.size, options.before, token, options.after,
            *((len(extra), extra) if extra else ()),
        )  # fmt: skip

    def retry(self, job_id: bytes, token: bytes, now_ms: int, *, lifo: bool, fields: Mapping[str, str]) -> bytes:
        """retryJob: back to wait at once, an attempt spent. It never fetches."""
        key = self._base + job_id
        extra = pack_fields(fields)
        push = b"RPUSH" if lifo else b"LPUSH"
        return self._retry % (len(key), key, now_ms, push, len(job_id), job_id, token, len(extra), extra)

    def delay(
        self,
        job_id: bytes,
        token: bytes,
        now_ms: int,
        delay_ms: int,
        *,
        spend_attempt: bool,
        fields: Mapping[str, str],
        fetch: bool,
    ) -> bytes:
        """moveToDelayed; answers 0 unless a job was fetched, so that ttl and due time need a fetch of their own."""
        key = self._base + job_id
        extra = pack_fields(fields)
        options = self._fetch_options
        return self._delay % (
            len(key), key, now_ms, len(job_id), job_id, token, len(str(delay_ms)), delay_ms, not spend_attempt,
            len(extra), extra, fetch, options.before, token, options.after,
        )  # fmt: skip

    def release(self, job_id: bytes, token: bytes) -> bytes:
        """moveJobFromActiveToWait, at the front, no attempt spent. Writes no marker for a prioritized job: add `wake`."""
        key = self._base + job_id
        return self._release % (len(job_id), job_id, token, len(key), key)

    def rate_limit(self, delay_ms: int) -> bytes:
        """Let nothing of the queue start for so long (as BullMQ's ``Queue.rateLimit``), or for longer where that holds already."""
        return self._rate_limit % (len(str(delay_ms)), delay_ms)

    def announce_limit(self, delay_ms: int) -> tuple[bytes, int]:
        """Do so, and have all workers of the queue hear of it: packed, and how many replies it brings."""
        return self.rate_limit(delay_ms) + self._nudge, 2

    def progress(self, job_id: bytes, value: bytes) -> bytes:
        """Set the job's progress (JSON) and tell its listeners."""
        key = self._base + job_id
        return self._progress % (len(key), key, len(job_id), job_id, len(value), value)

    def log(self, job_id: bytes, line: bytes, keep: int) -> bytes:
        """Add a line to the job's log, of which the last `keep` lines are kept (0: all)."""
        key = self._base + job_id
        logs = key + b":logs"
        limit = b"%d" % keep if keep else b""
        return self._log % (len(key), key, len(logs), logs, len(job_id), job_id, len(line), line, len(limit), limit)

    def job_key(self, job_id: bytes) -> bytes:
        """Key of the job's hash."""
        return self._base + job_id

    def lock_key(self, job_id: bytes) -> bytes:
        """Key of the job's lock."""
        return self._base + job_id + b":lock"

    def _finish_template(self, key: Mapping[str, bytes], target: str, *, fetches: bool, with_fields: bool) -> bytes:
        keys = (*(key[name] for name in _ACTIVE_KEYS[:10]), key[target])
        return b"".join(
            (
                _command("moveToFinished-14", keys, 9 if with_fields else 8),
                b"$%d\r\n" + _escape(self._base) + b"%b\r\n",
                _escape(_bulk(self._base + b"metrics:" + target.encode()) + _bulk(key["marker"])),
                b"$%d\r\n%b\r\n$13\r\n%d\r\n",
                _bulk(b"returnvalue" if target == "completed" else b"failedReason"),
                b"$%d\r\n%b\r\n" + _bulk(target.encode()) + _bulk(b"1" if fetches else b""),
                _escape(_bulk(self._base)) + b"$%d\r\n%b%b%b\r\n",
                b"$%d\r\n%b\r\n" if with_fields else b"",
            )
        )


def transaction(*commands: bytes) -> tuple[bytes, int]:
    """Wrap the packed commands in MULTI and EXEC: the bytes, and how many replies they bring (the last one counts)."""
    return b"*1\r\n$5\r\nMULTI\r\n" + b"".join(commands) + b"*1\r\n$4\r\nEXEC\r\n", len(commands) + 2


def pack(*words: bytes) -> bytes:
    """Pack one command."""
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def pack_fields(fields: Mapping[str, str]) -> bytes:
    """Pack job fields as the scripts take them: a flat msgpack list, empty for none."""
    if not fields:
        return b""
    flat = [word for pair in fields.items() for word in pair]
    packed: bytes = msgpack.packb(flat)
    return packed


def _command(script: str, keys: Iterable[bytes | None], arguments: int) -> bytes:
    """Begin an EVALSHA with its keys; one of None is given per call, as length and value. `arguments` are added later."""
    loaded = lua.bullmq(script)
    return b"*%d\r\n" % (3 + loaded.key_count + arguments) + _evalsha(loaded, keys)


def _evalsha(script: Script, keys: Iterable[bytes | None]) -> bytes:
    head = b"$7\r\nEVALSHA\r\n" + _bulk(script.sha.encode()) + _bulk(b"%d" % script.key_count)
    return head + b"".join(b"$%d\r\n%b\r\n" if key is None else _escape(_bulk(key)) for key in keys)


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def _escape(template: bytes) -> bytes:
    return template.replace(b"%", b"%%")
