"""The packed commands are what a general packer makes of the same words."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen.queue import lua
from bullpen.queue.keys import QueueKeys
from bullpen.redis.wire import pack_command
from bullpen_worker.running import templates
from bullpen_worker.running.templates import TOKEN_LENGTH, Completion, FinishSettings, Templates

TOKEN = b"0123456789abcdef:00000000a"
NOW = 1_795_000_000_123
SETTINGS = FinishSettings(5, {"count": 1000, "age": 86400}, {"count": -1}, ("fpof",))


@pytest.fixture
def pack() -> Templates:
    return make("bull", "e%mails")


def make(prefix: str, queue: str, *, armed_ms: int | None = None) -> Templates:
    return Templates(
        QueueKeys(prefix, queue), worker_name="w@1", lock_ms=10_000, metrics_points=100, armed_limiter_ms=armed_ms
    )


def parse(packed: bytes) -> list[bytes]:
    """Read one command of the wire."""
    head, _, rest = packed.partition(b"\r\n")
    words = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        length = int(size[1:])
        words.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    assert rest == b""
    return words


def evalsha(script: str, words: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    loaded = lua.bullmq(script)
    assert words[:3] == [b"EVALSHA", loaded.sha.encode(), str(loaded.key_count).encode()]
    return words[3 : 3 + loaded.key_count], words[3 + loaded.key_count :]


def names(keys: list[bytes], base: bytes) -> list[str]:
    assert all(key.startswith(base) for key in keys)
    return [key[len(base) :].decode() for key in keys]


B = b"bull:e%mails:"


def test_the_token_has_the_length_that_the_packed_options_were_made_for() -> None:
    assert len(TOKEN) == TOKEN_LENGTH


def test_fetch(pack: Templates) -> None:
    keys, args = evalsha("moveToActive-11", parse(pack.fetch(TOKEN, NOW)))
    assert names(keys, B) == (
        ["wait", "active", "prioritized", "events", "stalled", "limiter", "delayed", "paused", "meta", "pc", "marker"]
    )
    assert args[:2] == [B, str(NOW).encode()]
    assert msgpack.unpackb(args[2]) == {"token": TOKEN.decode(), "lockDuration": 10_000, "name": "w@1"}


def test_an_armed_fetch_looks_at_the_limiter() -> None:
    _, args = evalsha("moveToActive-11", parse(make("bull", "q", armed_ms=5_000).fetch(TOKEN, NOW)))
    assert msgpack.unpackb(args[2])["limiter"] == {"max": 2**53 - 1, "duration": 5_000}


@given(values=st.lists(st.binary(max_size=300), min_size=1, max_size=5), job_id=st.binary(min_size=1, max_size=60))
def test_complete_many(values: list[bytes], job_id: bytes) -> None:
    pack = make("bull", "e%mails")
    completed, _ = pack.finish_options(SETTINGS)
    words = parse(pack.complete_many([Completion(job_id, TOKEN, value, completed) for value in values], NOW))
    assert words[:3] == [b"EVALSHA", lua.complete_many().sha.encode(), b"13"]
    one = evalsha("moveToFinished-14", parse(pack.completed(job_id, TOKEN, NOW, b"", completed, fetch=True)))
    assert words[3:16] == [*one[0][:11], *one[0][12:]]  # without the job's own key
    assert words[16:18] == [B, str(NOW).encode()]
    for place, value in enumerate(values):
        *text, options = words[18 + 4 * place :][:4]
        assert text == [job_id, value, TOKEN]
        assert {"token": TOKEN.decode(), **msgpack.unpackb(options)} == msgpack.unpackb(one[1][7])
    assert len(words) == 18 + 4 * len(values)


@given(value=st.binary(max_size=300), job_id=st.binary(min_size=1, max_size=60), fetch=st.booleans())
def test_completed(value: bytes, job_id: bytes, fetch: bool) -> None:
    pack = make("bull", "e%mails")
    completed, _ = pack.finish_options(SETTINGS)
    keys, args = evalsha("moveToFinished-14", parse(pack.completed(job_id, TOKEN, NOW, value, completed, fetch=fetch)))
    assert keys[10:] == [B + b"completed", B + job_id, B + b"metrics:completed", B + b"marker"]
    flag = b"1" if fetch else b""
    assert args[:7] == [job_id, str(NOW).encode(), b"returnvalue", value, b"completed", flag, B]
    assert msgpack.unpackb(args[7]) == {
        "token": TOKEN.decode(), "lockDuration": 10_000, "name": "w@1", "attempts": 5, "maxMetricsSize": 100,
        "fpof": True, "keepJobs": {"count": 1000, "age": 86400},
    }  # fmt: skip
    assert len(args) == 8


def test_failed_writes_fields(pack: Templates) -> None:
    _, failed = pack.finish_options(SETTINGS)
    packed = pack.failed(b"7", TOKEN, NOW, b"no", failed, fields={"stacktrace": "[]", "a": "ü"}, fetch=True)
    keys, args = evalsha("moveToFinished-14", parse(packed))
    assert keys[10:13] == [B + b"failed", B + b"7", B + b"metrics:failed"]
    assert args[2:6] == [b"failedReason", b"no", b"failed", b"1"]
    assert msgpack.unpackb(args[7])["keepJobs"] == {"count": -1}
    assert msgpack.unpackb(args[8]) == ["stacktrace", "[]", "a", "ü"]


def test_metrics_off_is_said_with_an_empty_text() -> None:
    pack = Templates(QueueKeys("bull", "q"), worker_name="w", lock_ms=1, metrics_points=0)
    completed, _ = pack.finish_options(SETTINGS)
    _, args = evalsha("moveToFinished-14", parse(pack.completed(b"1", TOKEN, NOW, b"null", completed, fetch=True)))
    assert msgpack.unpackb(args[7])["maxMetricsSize"] == ""


@pytest.mark.parametrize("lifo", [True, False])
def test_retry(pack: Templates, lifo: bool) -> None:
    packed = pack.retry(b"7", TOKEN, NOW, lifo=lifo, fields={"f": "v"})
    keys, args = evalsha("retryJob-11", parse(packed))
    assert names(keys, B) == (
        ["active", "wait", "paused", "7", "meta", "events", "delayed", "prioritized", "pc", "marker", "stalled"]
    )
    push = b"RPUSH" if lifo else b"LPUSH"
    assert args == [B, str(NOW).encode(), push, b"7", TOKEN, msgpack.packb(["f", "v"])]


@pytest.mark.parametrize(("spend", "fetch"), [(True, False), (False, True)])
def test_delay(pack: Templates, spend: bool, fetch: bool) -> None:
    packed = pack.delay(b"7", TOKEN, NOW, 30_000, spend_attempt=spend, fields={}, fetch=fetch)
    keys, args = evalsha("moveToDelayed-11", parse(packed))
    assert names(keys, B) == (
        ["marker", "active", "prioritized", "delayed", "7", "events", "meta", "stalled", "wait", "limiter", "pc"]
    )
    skip, flag = b"0" if spend else b"1", b"1" if fetch else b"0"
    assert args[:8] == [B, str(NOW).encode(), b"7", TOKEN, b"30000", skip, b"", flag]
    assert msgpack.unpackb(args[8])["token"] == TOKEN.decode()


def test_release(pack: Templates) -> None:
    keys, args = evalsha("moveJobFromActiveToWait-9", parse(pack.release(b"7", TOKEN)))
    assert names(keys, B) == [
        "active",
        "wait",
        "stalled",
        "paused",
        "meta",
        "limiter",
        "prioritized",
        "marker",
        "events",
    ]
    assert args == [b"7", TOKEN, B + b"7"]


def test_progress_and_log(pack: Templates) -> None:
    keys, args = evalsha("updateProgress-3", parse(pack.progress(b"7", b"50")))
    assert (names(keys, B), args) == (["7", "events", "meta"], [b"7", b"50"])
    keys, args = evalsha("addLog-2", parse(pack.log(b"7", b"line", 0)))
    assert (names(keys, B), args) == (["7", "7:logs"], [b"7", b"line", b""])
    assert parse(pack.log(b"7", b"line", 20))[-1] == b"20"


def test_a_transaction_wraps_and_counts_the_replies(pack: Templates) -> None:
    packed, replies = templates.transaction(pack.wake, pack.rate_limit(500))
    assert packed == pack_command("MULTI") + pack.wake + pack.rate_limit(500) + pack_command("EXEC")
    assert replies == 4
    assert parse(pack.wake) == [b"ZADD", B + b"marker", b"0", b"0"]
    sha = lua.ours("limit-starts-1").sha.encode()
    assert parse(pack.rate_limit(500)) == [b"EVALSHA", sha, b"1", B + b"limiter", b"9007199254740991", b"500"]


@given(st.text("abc:%{}-", min_size=1, max_size=20), st.text("abc%{}-", min_size=1, max_size=20))
def test_any_prefix_and_queue_gives_commands_that_read_back(prefix: str, queue: str) -> None:
    pack = make(prefix, queue)
    completed, failed = pack.finish_options(SETTINGS)
    for packed in (
        pack.fetch(TOKEN, NOW),
        pack.completed(b"%d", TOKEN, NOW, b"%s", completed, fetch=True),
        pack.failed(b"%d", TOKEN, NOW, b"%s", failed, fields={"%": "%"}, fetch=False),
        pack.retry(b"%d", TOKEN, NOW, lifo=False, fields={}),
        pack.delay(b"%d", TOKEN, NOW, 1, spend_attempt=True, fields={"%": "%"}, fetch=True),
        pack.release(b"%d", TOKEN),
    ):
        assert parse(packed)[0] == b"EVALSHA"
