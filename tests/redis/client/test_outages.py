"""Producers fail fast, say where and why, and never add a job twice."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from bullpen import Client, EnqueueUncertain, JobCancelled, JobSpec, RedisUnavailable, SyncClient
from bullpen.clients import handles
from bullpen.clients.sync_session import SyncSession
from support.proxy import proxy
from support.waiting import Stopwatch, eventually


@pytest.fixture
def dead_port():
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_dead_redis_fails_an_enqueue(dead_port):
    async with Client(f"redis://:secret@127.0.0.1:{dead_port}", timeout="2s") as client:
        async with asyncio.timeout(60):
            with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{dead_port}") as caught:
                await client.queue("emails").enqueue("x")
    assert not isinstance(caught.value, EnqueueUncertain)
    assert "secret" not in str(caught.value)


def test_a_dead_redis_fails_a_blocking_enqueue(dead_port):
    client = SyncClient(f"redis://:secret@127.0.0.1:{dead_port}", timeout="2s")
    with client, pytest.raises(RedisUnavailable, match=f"127.0.0.1:{dead_port}") as caught:
        client.queue("emails").enqueue("x")
    assert not isinstance(caught.value, EnqueueUncertain)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("used", [False, True])
async def test_a_frozen_redis_fails_an_enqueue_within_its_timeout(redis_server, used):
    async with Client(redis_server.url, timeout="1s") as client:
        queue = client.queue("emails")
        if used:
            await queue.enqueue("x")
        redis_server.freeze()
        try:
            with Stopwatch() as watch, pytest.raises(RedisUnavailable) as caught:
                await queue.enqueue("x", {}, job_id="mine")
            with pytest.raises(RedisUnavailable):
                await queue.enqueue("y", {}, job_id="other")
        finally:
            redis_server.thaw()
        assert isinstance(caught.value, EnqueueUncertain) is used
        assert watch.seconds < 1.9  # the time for one answer, not for two
        await queue.enqueue("z")  # and it is well again


@pytest.mark.parametrize("used", [False, True])
def test_a_frozen_redis_fails_a_blocking_enqueue_within_its_timeout(redis_server, used):
    with SyncClient(redis_server.url, timeout="1s") as client:
        queue = client.queue("emails")
        if used:
            queue.enqueue("x")
        redis_server.freeze()
        try:
            with Stopwatch() as watch, pytest.raises(RedisUnavailable) as caught:
                queue.enqueue("x", {}, job_id="mine")
        finally:
            redis_server.thaw()
        assert isinstance(caught.value, EnqueueUncertain) is used
        assert watch.seconds < 1.9
        queue.enqueue("z")


class Gate:
    """A proxy in front of Redis that may swallow the answer to one command, and cut the connection there."""

    def __init__(self, path, *, forward=True):
        self._path = path
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}"
        self.cut_at: bytes | None = None
        self.forward = forward
        self.adds = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self._sockets = []

    def close(self):
        self._server.close()
        for each in self._sockets:
            each.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._path)
            self._sockets += [near, far]
            swallow = threading.Event()
            for pump in (self._ask, self._answer):
                threading.Thread(target=pump, args=(near, far, swallow), daemon=True).start()

    def _ask(self, near, far, swallow):
        """Hand on what the client sends; the marked command is the last."""
        try:
            while data := near.recv(1 << 20):
                if self.cut_at is not None and self.cut_at in data:
                    self.cut_at = None
                    self.adds += 1
                    swallow.set()
                    if not self.forward:
                        break
                    far.sendall(data)
                    return  # the other pump cuts the connection once Redis has answered
                far.sendall(data)
        except OSError:
            pass
        near.close()
        far.close()

    def _answer(self, near, far, swallow):
        """Hand on what Redis answers, but for the answer to the marked command."""
        try:
            while (data := far.recv(1 << 20)) and not swallow.is_set():
                near.sendall(data)
        except OSError:
            pass
        near.close()
        far.close()


@pytest.fixture
def gate(redis_server):
    made = []

    def gate(**options):
        made.append(Gate(redis_server.url.removeprefix("unix://"), **options))
        return made[-1]

    yield gate
    for each in made:
        each.close()


MARK = b"the-payload-that-is-cut"


@pytest.mark.parametrize("count", [1, 3])
async def test_an_add_whose_answer_was_lost_is_looked_up(gate, redis_server, count):
    through = gate()
    async with Client(through.url) as client, Client(redis_server.url) as direct:
        queue = client.queue("emails")
        await queue.enqueue("warm")
        await queue.enqueue_many([JobSpec.by_name("warm")] * 2)  # Redis knows both scripts now
        through.cut_at = MARK
        if count == 1:
            handles = [await queue.enqueue("x", {"text": MARK.decode()})]
        else:
            handles = await queue.enqueue_many([JobSpec.by_name("x", {"text": MARK.decode()})] * count)
        assert through.adds == 1
        assert [(await direct.queue("emails").job(handle.id).info()).name for handle in handles] == ["x"] * count
        assert (await direct.queue("emails").counts())["waiting"] == 3 + count


async def test_an_add_of_which_nothing_is_found_is_uncertain_and_not_repeated(gate, redis_server):
    through = gate(forward=False)
    async with Client(through.url) as client, Client(redis_server.url) as direct:
        queue = client.queue("emails")
        await queue.enqueue("warm")
        through.cut_at = MARK
        with pytest.raises(EnqueueUncertain):
            await queue.enqueue("x", {"text": MARK.decode()})
        assert through.adds == 1
        assert (await direct.queue("emails").counts())["waiting"] == 1
        await queue.enqueue("x", {"text": MARK.decode()})
        assert (await direct.queue("emails").counts())["waiting"] == 2


@pytest.mark.parametrize("forward", [True, False])
def test_the_blocking_client_looks_too(gate, redis_server, forward):
    through = gate(forward=forward)
    with SyncClient(through.url) as client, SyncClient(redis_server.url) as direct:
        queue = client.queue("emails")
        queue.enqueue("warm")
        through.cut_at = MARK
        if forward:
            queue.enqueue("x", {"text": MARK.decode()})
        else:
            with pytest.raises(EnqueueUncertain):
                queue.enqueue("x", {"text": MARK.decode()})
        assert direct.queue("emails").counts()["waiting"] == (2 if forward else 1)


async def test_what_changes_nothing_is_asked_again(gate):
    through = gate()
    async with Client(through.url) as client:
        queue = client.queue("emails")
        await queue.enqueue("warm")
        through.cut_at = b"LLEN"
        assert (await queue.counts())["waiting"] == 1


async def test_redis_restarted(redis_server):
    async with Client(redis_server.url) as client:
        queue = client.queue("emails")
        await queue.enqueue("x")
        link = client._session.bind().shell._link
        redis_server.restart()
        await eventually(lambda: link.connection is None)
        await queue.enqueue("y")


def test_redis_restarted_under_a_blocking_client(redis_server):
    with SyncClient(redis_server.url) as client:
        queue = client.queue("emails")
        queue.enqueue("x")
        redis_server.restart()
        queue.enqueue("y")


async def test_a_redis_that_is_full_says_what_to_do(redis_server):
    async with Client(redis_server.url) as client:
        queue = client.queue("emails")
        await queue.enqueue("x")
        redis_server.execute(b"CONFIG", b"SET", b"maxmemory", b"1")
        with pytest.raises(RedisUnavailable, match="maxmemory"):
            await queue.enqueue("x")


def test_a_redis_that_is_full_says_so_to_a_blocking_client(redis_server):
    with SyncClient(redis_server.url) as client:
        queue = client.queue("emails")
        queue.enqueue("x")
        redis_server.execute(b"CONFIG", b"SET", b"maxmemory", b"1")
        with pytest.raises(RedisUnavailable, match="maxmemory"):
            queue.enqueue("x")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://127.0.0.1:{port}", "127.0.0.1:{port}/0 (the Redis URL) cannot be reached: connection refused"),
        ("unix:///does/not/exist.sock", "/does/not/exist.sock (db 0) (the Redis URL) cannot be reached: no such file"),
        ("redis://no-such-host.invalid", "cannot be reached: the host name cannot be resolved"),
    ],
)
def test_both_clients_say_the_same_of_a_redis_that_is_not_there(dead_port, url, why):
    url, why = url.format(port=dead_port), why.format(port=dead_port)
    with SyncClient(url, timeout="5s") as blocking, pytest.raises(RedisUnavailable) as sync_error:
        blocking.queue("emails").enqueue("x")

    async def enqueue():
        async with Client(url, timeout="5s") as client:
            await client.queue("emails").enqueue("x")

    with pytest.raises(RedisUnavailable) as async_error:
        asyncio.run(enqueue())
    assert why in str(sync_error.value)
    assert str(sync_error.value) == str(async_error.value)


class Hesitant(threading.Thread):
    """Hands on to Redis, until told to hesitate: then it hangs up `late` seconds after a command, and is silent to new callers."""

    def __init__(self, path, late):
        super().__init__(daemon=True)
        self._path = path
        self._late = late
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.getsockname()[1]}"
        self.hesitates = threading.Event()
        self.silent_to = 0
        self._accepted = []
        self.start()

    def close(self):
        self._server.close()
        for each in self._accepted:
            each.close()

    def run(self):
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            self._accepted.append(near)
            if self.hesitates.is_set():
                self.silent_to += 1
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._path)
            self._accepted.append(far)
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near), daemon=True).start()

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            self._hand_on(source, target)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _hand_on(self, source, target):
        while data := source.recv(1 << 20):
            if self.hesitates.is_set():
                threading.Event().wait(self._late)
                break
            target.sendall(data)


def test_a_reconnect_has_only_what_is_left_of_the_time(redis_server):
    server = Hesitant(redis_server.url.removeprefix("unix://"), late=4)
    with contextlib.closing(server), SyncClient(server.url, timeout="8s") as client:
        client.queue("emails").counts()
        server.hesitates.set()
        with Stopwatch() as watch, pytest.raises(RedisUnavailable, match=r"cannot be reached: nothing within [0-4]\b"):
            client.queue("emails").counts()
    assert server.silent_to == 1
    assert watch.seconds < 11  # not 4 and another 8


def test_a_connection_that_ends_is_told_in_our_words(gate):
    through = gate(forward=False)
    with SyncClient(through.url) as client:
        queue = client.queue("emails")
        queue.enqueue("warm")
        through.cut_at = MARK
        with pytest.raises(EnqueueUncertain, match="the connection was lost: ") as caught:
            queue.enqueue("x", {"text": MARK.decode()})
    assert "Error while reading" not in str(caught.value)
    assert "Connection closed" not in str(caught.value)


async def test_a_blocking_wait_outlives_a_connection_that_died_without_a_word(redis_server, monkeypatch):
    """As when a machine is gone: nothing comes any more, not even an end."""
    monkeypatch.setattr(handles, "LOOK_EVERY_SECONDS", 0.3)
    monkeypatch.setattr(SyncSession, "longest_read", 0.3)
    async with proxy(redis_server.url) as between:
        with SyncClient(between.url, timeout="1s") as client, SyncClient(redis_server.url) as direct:
            job_id = await asyncio.to_thread(lambda: client.queue("emails").enqueue("x").id)
            waiting = asyncio.create_task(
                asyncio.to_thread(lambda: client.queue("emails").job(job_id).result(timeout="1m"))
            )
            await eventually(lambda: b"cmd=xread" in redis_server.execute(b"CLIENT", b"LIST"))
            between.lose_replies = True
            assert await asyncio.to_thread(lambda: direct.queue("emails").job(job_id).cancel("late"))
            await eventually(lambda: between.accepted > 2)  # it has given that connection up
            between.lose_replies = False
            async with asyncio.timeout(60):
                with pytest.raises(JobCancelled, match="late"):
                    await waiting


def test_blocking_events_wait_for_a_redis_that_is_away(redis_server):
    with SyncClient(redis_server.url, timeout="1s") as client:
        handle = client.queue("emails").enqueue("x", delay="1h")
        with handle.events() as changes:
            redis_server.kill()
            back = threading.Timer(
                0.7, lambda: (redis_server.restart(), client.queue("emails").job(handle.id).remove())
            )
            back.start()
            assert [event.type for event in changes][-1:] in ([], ["removed"])
            back.join()


async def test_events_wait_for_a_redis_that_is_away(redis_server, monkeypatch):
    monkeypatch.setattr(handles, "LOOK_EVERY_SECONDS", 0.02)
    async with Client(redis_server.url, timeout="1s") as client:
        handle = await client.queue("emails").enqueue("x", delay="1h")
        async with handle.events() as changes:
            redis_server.kill()

            async def back():
                until = time.monotonic() + 0.3
                while time.monotonic() < until:  # the events' looks find nobody either
                    with pytest.raises(RedisUnavailable):
                        await handle.info()
                await asyncio.to_thread(redis_server.restart)
                await handle.remove()

            bringing = asyncio.create_task(back())
            async with asyncio.timeout(60):
                assert [event.type async for event in changes][-1:] in ([], ["removed"])
            await bringing
