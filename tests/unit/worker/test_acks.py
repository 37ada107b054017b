"""What outcomes become, and what the answers mean, without a Redis."""

import json

import pytest

from bullpen.handling import outcomes
from bullpen.handling.failures import Failure
from bullpen.queue.keys import QueueKeys
from bullpen.queue.records import StoredJob
from bullpen.redis.failures import ReplyError
from bullpen_worker.running import acks, fetching
from bullpen_worker.running.acks import Ack, FetchedJob, PutOff, Reading, Subject
from bullpen_worker.running.fetching import Empty
from bullpen_worker.running.templates import FinishSettings, Templates

TOKEN = b"0123456789abcdef:00000000a"
NOW = 1_795_000_000_123
JOB = [[b"name", b"n"], b"7", 0, 0]
FAILURE = Failure("ValueError", "no", "Traceback\nValueError: no")


@pytest.fixture
def pack() -> Templates:
    return Templates(QueueKeys("bull", "q"), worker_name="w", lock_ms=1000, metrics_points=0)


def subject(pack: Templates, **fields: bytes) -> Subject:
    completed, failed = pack.finish_options(FinishSettings(1, {"count": 0}, {"count": -1}))
    return Subject(b"7", StoredJob("7", {name.encode(): value for name, value in fields.items()}), completed, failed)


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (JOB, FetchedJob(b"7", [b"name", b"n"])),
        ([0, 0, 0, 0], fetching.NOTHING),
        ([0, 0, 250, 0], Empty(limited_ms=250)),
        ([0, 0, 0, 1_795_000_000_500], Empty(due_ms=1_795_000_000_500)),
        ([0, 0, 0, b"1795000000500.2"], Empty(due_ms=1_795_000_000_501)),
        ([0, 0, 0, -(2**63)], fetching.NOTHING),  # due at a time that is no whole number for Redis
        ([0, 0, 0, b"inf"], fetching.NOTHING),
        (0, fetching.NOTHING),
        (None, fetching.NOTHING),
    ],
)
def test_what_a_fetch_answers(reply: object, meaning: object) -> None:
    assert acks.read_fetch(reply) == meaning  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ack", "replies", "reading"),
    [
        (Ack(b"", fetch_at=0), [JOB], Reading(0, FetchedJob(b"7", [b"name", b"n"]))),
        (Ack(b"", fetch_at=0), [0], Reading(0, fetching.NOTHING)),
        (Ack(b"", fetch_at=0), [-2], Reading(-2, fetching.UNTOLD)),
        (Ack(b"", fetch_at=0, telling=False), [0], Reading(0, fetching.UNTOLD)),
        (Ack(b""), [0], Reading(0, fetching.UNTOLD)),
        (Ack(b"", 4, wrapped=True), [b"OK", b"QUEUED", b"QUEUED", [-1, 1]], Reading(-1, fetching.UNTOLD)),
        (Ack(b"", 4, at=1, wrapped=True), [b"OK", b"QUEUED", b"QUEUED", [b"OK", 0]], Reading(0, fetching.UNTOLD)),
    ],
)
def test_what_an_ack_answers(ack: Ack, replies: list[object], reading: Reading) -> None:
    assert ack.read(replies) == reading  # type: ignore[arg-type]
    later = ack.after(b"first", 2)
    assert later.packed.startswith(b"first")
    assert later.replies == ack.replies + 2
    assert later.read([1, 1, *replies]) == reading  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("ack", "replies"),
    [
        (Ack(b"", fetch_at=0), [ReplyError("NOSCRIPT no")]),
        (Ack(b"", 3, wrapped=True), [b"OK", b"QUEUED", ReplyError("EXECABORT no")]),
        (Ack(b"", 3, wrapped=True), [b"OK", b"QUEUED", [ReplyError("NOSCRIPT no")]]),
        (Ack(b"", 3, wrapped=True), [b"OK", b"QUEUED", None]),
    ],
)
def test_error_replies_are_raised(ack: Ack, replies: list[object]) -> None:
    with pytest.raises(ReplyError):
        ack.read(replies)  # type: ignore[arg-type]


ENDINGS = [
    (outcomes.Completed("1"), "completed", True),
    (outcomes.Retried(FAILURE, 5), "retried", True),
    (outcomes.Retried(FAILURE, 5, timed_out=True), "timeout", True),
    (outcomes.Failed(FAILURE), "failed", True),
    (outcomes.Failed(FAILURE, timed_out=True), "timeout", True),
    (outcomes.Cancelled("why"), "cancelled", True),
    (outcomes.Expired(), "expired", True),
    (outcomes.Snoozed(5), "released", False),
    (outcomes.RateLimited(5), "released", False),
    (outcomes.Released(), "released", False),
    (PutOff(NOW), "released", False),
    (outcomes.LockLost(), "lock_lost", False),
]


@pytest.mark.parametrize(("ending", "label", "spends"), ENDINGS, ids=lambda value: type(value).__name__)
def test_how_endings_are_counted(ending: acks.Ending, label: str, spends: bool) -> None:
    assert (acks.label(ending), acks.spends_attempt(ending)) == (label, spends)


@pytest.mark.parametrize("ending", [ending for ending, label, _ in ENDINGS if label != "lock_lost"])
def test_an_ack_without_fetch_tells_others_that_a_slot_is_free(pack: Templates, ending: acks.Ending) -> None:
    ack = acks.plan(ending, subject(pack), TOKEN, NOW, pack, fetch=False)
    assert ack.fetch_at is None
    assert ack.wrapped  # all but an immediate retry, whose script writes the marker itself
    assert pack.wake in ack.packed or isinstance(ending, outcomes.RateLimited)


def test_an_immediate_retry_never_fetches_under_the_same_token(pack: Templates) -> None:
    for fetch in (True, False):
        ack = acks.plan(outcomes.Retried(FAILURE, 0), subject(pack), TOKEN, NOW, pack, fetch=fetch)
        assert ack.fetch_at is None
        assert ack.replies == 1


def test_nothing_is_written_of_a_lost_lock(pack: Templates) -> None:
    with pytest.raises(ValueError, match="lock is lost"):
        acks.plan(outcomes.LockLost(), subject(pack), TOKEN, NOW, pack, fetch=True)


@pytest.mark.parametrize(("opts", "kept"), [("{}", 10), ('{"stackTraceLimit":2}', 2), ('{"stackTraceLimit":0}', 0)])
def test_the_latest_tracebacks_are_kept(pack: Templates, opts: str, kept: int) -> None:
    before = [f"old {n}" for n in range(12)]
    stored = subject(pack, opts=opts.encode(), stacktrace=json.dumps(before).encode()).stored
    traces = json.loads(acks.failure_fields(FAILURE, stored)["stacktrace"])
    assert traces == [*before, FAILURE.stack][-kept:] if kept else traces == []
