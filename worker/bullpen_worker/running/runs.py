"""One run of a job: what was fetched, what holds for it, and what its handler says of it meanwhile."""

import time
from typing import Final

from bullpen.queue.records import StoredJob
from bullpen_worker.keeping.table import MAX_TEXT_BYTES, NO_DEADLINE
from bullpen_worker.running.acks import FetchedJob, Subject
from bullpen_worker.running.admission import Admission
from bullpen_worker.running.lines import Line
from bullpen_worker.running.services import JobOutput, Outbox
from bullpen_worker.running.templates import TOKEN_LENGTH

LONGEST_ID: Final = MAX_TEXT_BYTES - TOKEN_LENGTH
"""Bytes of a job's id that fit in a row of the slot table."""

_DIGITS: Final = 13  # of a time in ms, until the year 2286

_TELLING: Final = frozenset({b"atm", b"stc", b"parent", b"rjk", b"defa", b"bullpen:suspect"})
"""Fields because of which something is to be seen to before the handler is called."""


class Run:
    """The job in a slot. `started` (s) and `deadline_ms` (0: none) are monotonic, `timestamp` is when it was enqueued.

    `is_plain`: the handler may be called without anything else being seen to. What every job needs is read here once.
    """

    __slots__ = (
        "_line",
        "_outbox",
        "_output",
        "attempt",
        "deadline_ms",
        "fields",
        "id",
        "is_plain",
        "started",
        "stored",
        "terms",
        "timestamp",
    )

    def __init__(self, job: FetchedJob, admission: Admission, outbox: Outbox, line: Line) -> None:
        job_id = self.id = job.id
        pairs = iter(job.flat)
        fields = self.fields = dict(zip(pairs, pairs, strict=False))
        terms = self.terms = admission.terms(fields)
        stored = self.stored = StoredJob(job_id.decode(errors="replace"), fields, terms.opts)
        self.attempt = stored.attempts_made + 1 if b"atm" in fields else 1
        raw = fields.get(b"timestamp", b"")
        self.timestamp = int(raw) if len(raw) == _DIGITS and raw.isdigit() else stored.timestamp
        self._output: JobOutput | None = None
        self._outbox = outbox
        self._line = line
        started = self.started = time.monotonic()
        timeout_ms = terms.settings.timeout_ms
        self.deadline_ms = int(started * 1000) + timeout_ms if timeout_ms else NO_DEADLINE
        self.is_plain = terms.is_plain and _TELLING.isdisjoint(fields) and len(job_id) <= LONGEST_ID

    @property
    def output(self) -> JobOutput:
        """What the handler says of its job; made when it is first asked for, since most say nothing."""
        if self._output is None:
            self._output = JobOutput(self._outbox, self.id, self._line, self.terms.keep_logs)
        return self._output

    @property
    def has_words(self) -> bool:
        """Whether the handler said something that is not sent yet."""
        return self._output is not None and self._output.waiting

    def subject(self) -> Subject:
        """Give what an ack needs to know of the job."""
        return Subject(self.id, self.stored, self.terms.completed, self.terms.failed)
