"""What holds for a job that was fetched: its settings, its handler, and whether it may run at all.

Reading a job's options and asking the policy costs some 15 us, as much as all else that the worker does for a no-op
job. Jobs of one kind have the same options, so the answer (`Terms`) is kept by name and options text; only the id that
a client minted differs, and is left out of the key.
"""

import re
from dataclasses import dataclass
from typing import Final

from bullpen.handling import outcomes
from bullpen.handling.catalogue import Catalogue
from bullpen.handling.execution import may_be_called_ahead
from bullpen.handling.failures import Failure
from bullpen.handling.registrations import Registration
from bullpen.queue import records
from bullpen.queue.policy import JobSettings, QueuePolicy
from bullpen.queue.records import Opts, StoredJob
from bullpen_worker.running.acks import Ending, PutOff
from bullpen_worker.running.templates import FinishOptions, FinishSettings, Templates

_MOST_TERMS: Final = 2_048
_LONGEST_KEPT: Final = (
    4_096  # bytes of name and options: with more, nothing is kept, as a few thousand of those would be much
)
_ID = re.compile(rb'"jobId":"[^"\\]*",?')
_FLAGS: Final = {
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all jobs of one name with the same options."""

    name: str
    registration: Registration | None
    settings: JobSettings
    opts: Opts
    completed: FinishOptions
    failed: FinishOptions
    keep_logs: int
    delay_ms: int
    version: int
    """Of the payload."""
    may_expire: bool
    is_plain: bool
    """Whether, as far as these are concerned, the handler may simply be called."""
    is_quick: bool
    """Whether it may be called ahead of the rest of an attempt (`bullpen.handling.execution.call_ahead`)."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The job is suspected of killing its process: it runs in one of its own."""


Verdict = Ending | HandOver


class Admission:
    """Judges fetched jobs by one policy and one set of handlers. Made anew when either changes."""

    def __init__(self, *, catalogue: Catalogue, policy: QueuePolicy, pack: Templates) -> None:
        self._catalogue = catalogue
        self._policy = policy
        self._pack = pack
        self._terms: dict[tuple[bytes, bytes], Terms] = {}

    def terms(self, fields: dict[bytes, bytes]) -> Terms:
        """Give what holds for the job with these fields."""
        raw = fields.get(b"opts", b"")
        key = (fields.get(b"name", b""), _ID.sub(b"", raw, 1) if b'"jobId"' in raw else raw)
        found = self._terms.get(key)
        if found is None:
            found = self._work_out(key[0].decode(errors="replace"), raw)
            if len(key[0]) + len(raw) > _LONGEST_KEPT:
                return found
            if len(self._terms) >= _MOST_TERMS:
                self._terms.clear()
            self._terms[key] = found
        return found

    def verdict(self, stored: StoredJob, terms: Terms, now_ms: int, *, alone: bool) -> Verdict | None:
        """Say why the job is not to be run here and now; None when it is. `alone`: this process runs nothing else."""
        fields = stored.fields
        if b"defa" in fields and stored.deferred_failure:
            return outcomes.Failed(Failure("bullpen.DeferredFailure", stored.deferred_failure, ""))
        if terms.may_expire and stored.attempts_started <= 1 and stored.attempts_made == 0:
            expiry_ms = terms.settings.expiry_ms(stored.timestamp, terms.delay_ms)
            if expiry_ms is not None and expiry_ms <= now_ms:
                return outcomes.Expired()
        registration = terms.registration
        if registration is None or not registration.knows(terms.version):
            return self._unknown(stored, terms, now_ms)
        if b"bullpen:suspect" in fields and stored.suspect and not alone:
            return HandOver()
        return None

    def _unknown(self, stored: StoredJob, terms: Terms, now_ms: int) -> Verdict:
        registration = terms.registration
        since_ms = min(stored.unknown_since or now_ms, now_ms)  # noted by a worker whose clock was ahead, perhaps
        if now_ms - since_ms < self._policy.unknown_after_ms:
            return PutOff(since_ms)
        if registration is None:
            what = f"no handler of this worker knows the name {stored.name!r}"
        else:
            what = (
                f"its payload has version {terms.version}, and the handler of {stored.name!r} knows up to "
                f"{registration.version}"
            )
        reason = f"{what}; it waited {(now_ms - since_ms) // 1000} s for a worker that does (unknownHandler.after)"
        return outcomes.Failed(Failure("bullpen.UnknownJob", reason, ""))

    def _work_out(self, name: str, raw: bytes) -> Terms:
        opts = records.decode_opts(raw)
        registration = self._catalogue.find(name)
        settings = self._policy.settings_for(name, opts, registration.defaults if registration else None)
        completed, failed = self._pack.finish_options(
            FinishSettings(
                attempts=settings.retry.attempts,
                keep_completed=settings.keep_completed,
                keep_failed=settings.keep_failed,
                failure_flags=tuple(flag for option, flag in _FLAGS.items() if opts.get(option) is True),
            )
        )
        version = records.payload_version(opts)
        may_expire = settings.expires_at_ms is not None or settings.expires_after_ms is not None
        return Terms(
            name=name,
            registration=registration,
            settings=settings,
            opts=opts,
            completed=completed,
            failed=failed,
            keep_logs=_whole(opts, "keepLogs") or records.MOST_LOG_LINES,
            delay_ms=_whole(opts, "delay"),
            version=version,
            may_expire=may_expire,
            is_plain=registration is not None and registration.knows(version) and not may_expire,
            is_quick=registration is not None and may_be_called_ahead(registration),
        )


def _whole(opts: Opts, option: str) -> int:
    value = opts.get(option)
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0
