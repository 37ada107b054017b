"""A job as it lies in Redis: the hash that BullMQ keeps for it, and the options in it.

What lies there was written by others (Node, an older version, a person at a console), so reading never raises: a number
that is none counts as absent, options that are no JSON, or nested too deep to be read, count as none.
"""

import json
from collections.abc import Mapping
from typing import Final, TypeAlias

from pydantic import JsonValue

Opts: TypeAlias = Mapping[str, JsonValue]
"""A job's options under BullMQ's long names; ours lie in ``opts["bullpen"]``."""

PROTOCOL: Final = 1
"""The version of what we write into a job (``opts.bullpen.p``)."""

MOST_LOG_LINES: Final = 1_000
"""How many of a job's latest log lines are kept, where its options do not say (Node's ``keepLogs``)."""

NO_OPTS: Final[Opts] = {}

_SHORT: Final = {
    "deduplication": "de",
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "keepLogs": "kl",
    "removeDependencyOnFailure": "rdof",
}
_LONG: Final = {short: long for long, short in _SHORT.items()}


def decode_opts(raw: str | bytes | None) -> Opts:
    """Read the ``opts`` field of a job's hash, under BullMQ's long names. Never raises."""
    if not raw:
        return NO_OPTS
    try:
        opts = json.loads(raw)
    except (ValueError, RecursionError):
        return NO_OPTS
    if not isinstance(opts, dict):
        return NO_OPTS
    for short in opts.keys() & _LONG.keys():
        opts[_LONG[short]] = opts.pop(short)
    return opts


def wire_opts(opts: Opts) -> dict[str, JsonValue]:
    """Give the options under the names that lie in Redis: BullMQ shortens some of them."""
    return {_SHORT.get(name, name): value for name, value in opts.items()}


def bullpen_opts(opts: Opts) -> Opts:
    """Give what of the options is ours; empty when there is none, or when it is no object."""
    ours = opts.get("bullpen")
    return ours if isinstance(ours, dict) else NO_OPTS


def payload_version(opts: Opts) -> int:
    """Give the version of the payload; a job that says nothing (Node's, or the first version's) has 1."""
    version = bullpen_opts(opts).get("v")
    return version if isinstance(version, int) and not isinstance(version, bool) and version > 0 else 1


class StoredJob:
    """One job's hash, as it was read. Cheap to make: nothing is parsed until it is asked for.

    `fields` are the raw fields, also those that have no name here.
    """

    __slots__ = ("_opts", "fields", "id")

    def __init__(self, job_id: str, fields: Mapping[bytes, bytes], opts: Opts | None = None) -> None:
        self.id = job_id
        self.fields = fields
        self._opts = opts

    def __repr__(self) -> str:
        return f"StoredJob({self.id!r}, {self.name!r})"  # never the payload

    @property
    def name(self) -> str:
        """The job's name."""
        return self._text(b"name")

    @property
    def data(self) -> bytes:
        """The payload as JSON text; ``null`` when there is none."""
        return self.fields.get(b"data") or b"null"

    @property
    def opts(self) -> Opts:
        """The options, parsed, under BullMQ's long names."""
        if self._opts is None:
            self._opts = decode_opts(self.fields.get(b"opts"))
        return self._opts

    @property
    def version(self) -> int:
        """The version of the payload."""
        return payload_version(self.opts)

    @property
    def timestamp(self) -> int:
        """When the job was enqueued, in ms."""
        return self._int(b"timestamp")

    @property
    def delay(self) -> int:
        """How long the job waits before its next start, in ms; 0 once it was moved to wait."""
        return self._int(b"delay")

    @property
    def priority(self) -> int:
        """The priority; 0 for none."""
        return self._int(b"priority")

    @property
    def progress(self) -> JsonValue:
        """What the handler reported last; None before the first report."""
        return self._json(b"progress")

    @property
    def processed_on(self) -> int | None:
        """When the latest attempt started, in ms."""
        return self._int(b"processedOn") or None

    @property
    def finished_on(self) -> int | None:
        """When the job ended, in ms; None while it has not."""
        return self._int(b"finishedOn") or None

    @property
    def returnvalue(self) -> bytes | None:
        """The result as JSON text; None while there is none."""
        return self.fields.get(b"returnvalue")

    @property
    def failed_reason(self) -> str | None:
        """Why the latest failed attempt failed."""
        return self._text(b"failedReason") if b"failedReason" in self.fields else None

    @property
    def stacktrace(self) -> list[str]:
        """The tracebacks that were kept, the oldest first."""
        lines = self._json(b"stacktrace")
        return [str(line) for line in lines] if isinstance(lines, list) else []

    @property
    def attempts_made(self) -> int:
        """How many attempts were spent (BullMQ's ``atm``)."""
        return self._int(b"atm")

    @property
    def attempts_started(self) -> int:
        """How often the job was started (``ats``): grows with each start, so it fences the one before."""
        return self._int(b"ats")

    @property
    def stalled(self) -> int:
        """How often the job was taken back from a worker that had lost its lock (``stc``)."""
        return self._int(b"stc")

    @property
    def processed_by(self) -> str | None:
        """The name of the worker that started the latest attempt (``pb``)."""
        return self._text(b"pb") or None

    @property
    def scheduler_id(self) -> str | None:
        """The job scheduler that produced this job (``rjk``)."""
        return self._text(b"rjk") or None

    @property
    def deduplication_id(self) -> str | None:
        """The id by which later jobs count as the same (``deid``)."""
        return self._text(b"deid") or None

    @property
    def deferred_failure(self) -> str | None:
        """With this reason the job must be failed in place of being run (``defa``)."""
        return self._text(b"defa") or None

    @property
    def parent_key(self) -> str | None:
        """The key of the parent's hash, for a child of a flow."""
        return self._text(b"parentKey") or None

    @property
    def snoozes(self) -> int:
        """How often the job was snoozed."""
        return self._int(b"bullpen:snoozes")

    @property
    def company(self) -> int:
        """How many times the job's process died while other jobs ran in it too."""
        return self._int(b"bullpen:company")

    @property
    def suspect(self) -> bool:
        """Whether the job may run only in a process of its own."""
        return self.fields.get(b"bullpen:suspect") == b"1"

    @property
    def crashes(self) -> int:
        """How many times the job's process died with this job alone in it."""
        return self._int(b"bullpen:crashes")

    @property
    def unknown_since(self) -> int | None:
        """When a worker first found that it has no handler for the job, in ms."""
        return self._int(b"bullpen:unknown") or None

    @property
    def error_type(self) -> str:
        """The class of the error that failed the job, as ``module.Class``; empty when its worker did not say."""
        return read_error_type(self.fields.get(b"bullpen:error"))

    def _text(self, field: bytes) -> str:
        return self.fields.get(field, b"").decode(errors="replace")

    def _int(self, field: bytes) -> int:
        raw = self.fields.get(field)
        if not raw:
            return 0
        try:
            return int(raw)
        except ValueError:
            pass
        try:
            return int(float(raw))  # Lua writes a number beyond 14 digits as 1.7e+18
        except (ValueError, OverflowError):
            return 0

    def _json(self, field: bytes) -> JsonValue:
        raw = self.fields.get(field)
        if not raw:
            return None
        try:
            value: JsonValue = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        return value


def error_field(error_type: str) -> str:
    """Give what the worker writes to the hash's ``bullpen:error`` beside ``failedReason``."""
    return json.dumps({"type": error_type}, separators=(",", ":"))


def read_error_type(raw: bytes | None) -> str:
    """Read the hash's ``bullpen:error``. Never raises."""
    try:
        error = json.loads(raw or b"null")
    except (ValueError, RecursionError):
        return ""
    found = error.get("type") if isinstance(error, dict) else None
    return found if isinstance(found, str) else ""
