"""Calls as bytes: the short ways write what the long way writes."""

import hiredis
import msgpack
from hypothesis import given
from hypothesis import strategies as st

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.queue.operations import packing
from bullpen.queue.operations.adding import AddJobs, JobShape, NewJob
from bullpen.queue.operations.base import Command, Eval

SCRIPT = lua.script("test", "return 1", 2)
WORDS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary(), st.integers(-(2**60), 2**60))


def words(packed):
    reader = hiredis.Reader()
    reader.feed(packed)
    found = reader.gets()
    assert reader.gets() is False
    return found


def raw(word):
    return word if isinstance(word, bytes) else str(word).encode()


@given(st.lists(WORDS, min_size=1, max_size=5).map(tuple))
def test_commands(args):
    assert words(packing.pack(Command(args))) == [raw(word) for word in args]


@given(st.lists(WORDS, max_size=5).map(tuple), st.lists(WORDS, max_size=3).map(tuple), st.booleans())
def test_scripts(args, more, shared):
    packed = packing.pack(Eval(SCRIPT, ("k1", "k2"), args, shared, more))
    assert words(packed) == [b"EVALSHA", SCRIPT.sha.encode(), b"2", b"k1", b"k2", *map(raw, args), *map(raw, more)]


def test_the_arguments_of_an_add():
    keys = QueueKeys("bull", "emails")
    for job_id in ("01a20240-e942-756c-b06b-06172828e346", "mine", "ü" * 18):
        for deduplication in (None, {"id": "d"}):
            shape = JobShape(keys, "welcome", {"attempts": 0}, deduplication=deduplication)
            key = None if deduplication is None else "bull:emails:de:d"
            expected = ["bull:emails:", job_id, "welcome", 1_790_000_000_000, None, None, None, None, key]
            assert msgpack.unpackb(shape.packed_args(job_id, 1_790_000_000_000)) == expected


def test_one_job_and_many():
    keys = QueueKeys("bull", "emails")
    jobs = tuple(
        NewJob(JobShape(keys, "n", {"attempts": 0}, delay_ms=delay), f"j{delay}", b"{}", 1) for delay in (0, 5)
    )
    (single,) = AddJobs(keys, jobs[:1], "rev").commands()
    assert isinstance(single, Eval)
    assert (single.script.key_count, len(single.keys)) == (10, 10)
    assert single.more_args == ("rev",)
    (many,) = AddJobs(keys, jobs, "rev", 100, "DropOldest").commands()
    assert isinstance(many, Eval)
    assert (many.script.key_count, len(many.keys)) == (15, 15)
    assert many.args[:5] == ("rev", 100, 1, "1", "bull:emails:")
    assert (many.args[5], many.args[9]) == (b"s", b"d")


@given(st.binary(max_size=50), st.integers(0, 2**63), st.sampled_from(["", "rev"]), st.integers(0, 3), st.booleans())
def test_the_short_way_of_an_add_is_the_long_way(data, timestamp_ms, rev, priority, deduplicated):
    keys = QueueKeys("bull", "emails")
    deduplication = {"id": "d"} if deduplicated else None
    shape = JobShape(keys, "ü welcome", {"attempts": 0}, priority=priority, deduplication=deduplication)
    for _ in range(2):  # made, then remembered
        add = AddJobs(keys, (NewJob(shape, "01a20240-e942-756c-b06b-06172828e346", data, timestamp_ms),), rev)
        assert add.packed() == packing.pack(add.commands()[0])
    assert AddJobs(keys, (NewJob(shape, "mine", data, 1),), rev).packed() is None
    assert AddJobs(keys, (NewJob(shape, "0" * 36, data, 1),), rev, 5).packed() is None
    assert AddJobs(keys, (NewJob(shape, "0" * 36, data, 1),) * 2, rev).packed() is None
