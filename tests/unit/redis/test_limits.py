"""What may come from a Redis: announced lengths, lists, errors, bytes; cut anywhere."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.redis.limits import Guard, ReplyLimits, TooMuch

SMALL = ReplyLimits(bytes=4096, text=100, elements=50, boxes=10)

HARMLESS = [
    b"+PONG\r\n",
    b":1\r\n:2\r\n+OK\r\n",
    b"$5\r\nhello\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"$0\r\n\r\n",
    b"*2\r\n$1\r\na\r\n*1\r\n:5\r\n",
    b"$26\r\n\r\n*1000000000\r\n$9999999999\r\n",  # looks like a header, and is a text
    b"-ERR no\r\n",
    b"$4\r\n\xff\x00*9\r\n*1\r\n-X y\r\n",
]

TOO_MUCH = {
    "a list that is announced as huge": b"*1000000000\r\n",
    "a list of lists": b"*30\r\n*30\r\n",
    "many lists": b"*0\r\n" * 11,
    "many errors": b"-E\r\n" * 11,
    "a text that is announced as huge": b"$600000000\r\n",
    "a text over the limit": b"$101\r\n",
    "bytes": b":1\r\n" * 1025,
    "a web server": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a length that is none": b"$1x\r\n",
    "a length with a sign": b"*+5\r\n",
    "a line without end": b"+" + b"x" * 10_000,
}


def take(guard: Guard, sent: bytes, step: int) -> None:
    for start in range(0, len(sent), step):
        guard.take(memoryview(sent[start : start + step]))


@pytest.mark.parametrize("sent", HARMLESS)
def test_what_redis_says_passes_however_it_is_cut(sent: bytes) -> None:
    for step in (1, 2, 3, 7, len(sent)):
        guard = Guard(SMALL)
        take(guard, sent, step)


@pytest.mark.parametrize("sent", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_is_too_much_is_refused_before_it_has_come_whole(sent: bytes) -> None:
    limits = SMALL if len(sent) < 9_000 else ReplyLimits()
    for step in (1, 5, len(sent)):
        guard = Guard(limits)
        with pytest.raises(TooMuch):
            take(guard, sent, step)


def test_counting_begins_anew_when_nothing_is_waited_for() -> None:
    guard = Guard(SMALL)
    for _ in range(100):
        guard.take(memoryview(b"*5\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n"))
        guard.rest()


Value = st.recursive(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1).map(lambda n: b":%d\r\n" % n),
        st.binary(max_size=40).map(lambda b: b"$%d\r\n%s\r\n" % (len(b), b)),
        st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"+OK\r\n", b"-ERR it is so\r\n"]),
    ),
    lambda inner: st.lists(inner, max_size=5).map(lambda parts: b"*%d\r\n" % len(parts) + b"".join(parts)),
    max_leaves=20,
)


@given(st.lists(Value, min_size=1, max_size=5), st.integers(1, 50))
def test_whatever_hiredis_reads_the_guard_lets_through_and_ends_where_it_ends(values: list[bytes], step: int) -> None:
    sent = b"".join(values)
    reader, guard = hiredis.Reader(replyError=ValueError), Guard(ReplyLimits())
    for start in range(0, len(sent), step):
        guard.take(memoryview(sent[start : start + step]))
        reader.feed(sent[start : start + step])
    for _ in values:
        assert reader.gets() is not False
    # both stand at the beginning of the next reply
    with pytest.raises(TooMuch):
        guard.take(memoryview(b"?"))
