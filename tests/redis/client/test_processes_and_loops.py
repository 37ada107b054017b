"""Threads, forks and event loops: what may share a client, and what is told that it may not."""

import asyncio
import contextlib
import multiprocessing
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from bullpen import BlockingCallWarning, BullpenError, Client, SyncClient
from support.waiting import eventually

FORK = multiprocessing.get_context("fork")


def in_a_fork(function):
    """Run it in a forked process; give what it returned."""
    mine, its = FORK.Pipe()

    def run():
        try:
            its.send(function())
        except BaseException as error:  # noqa: BLE001 - the test shall see it
            its.send(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
        process = FORK.Process(target=run)
        process.start()
    try:
        assert mine.poll(60), "the forked process hangs"
        return mine.recv()
    finally:
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()


def test_nothing_is_connected_before_the_first_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        Client(url).queue("emails")
        with contextlib.closing(SyncClient(url)) as client:
            client.queue("emails").job("1")
        Client()  # what the environment says is read at first use
        with pytest.raises(BlockingIOError):
            server.accept()  # of nobody


def test_a_blocking_client_is_shared_by_threads(sync_client):
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda n: sync_client.queue("emails").enqueue("x", {"n": n}).id, range(400)))
    assert len(set(ids)) == 400
    assert sync_client.queue("emails").counts()["waiting"] == 400


def test_a_blocking_client_goes_through_a_fork(sync_client):
    queue = sync_client.queue("emails")
    first = queue.enqueue("parent")
    found = [in_a_fork(lambda: [queue.enqueue("child").id for _ in range(50)]) for _ in range(2)]
    ids = [first.id, *(queue.enqueue("parent").id for _ in range(50)), *found[0], *found[1]]
    assert len(set(ids)) == 151
    assert queue.counts()["waiting"] == 151


def test_a_fork_while_threads_use_the_client(sync_client):
    """No lock is inherited locked: a fork in the middle of other threads' calls can call too."""
    queue = sync_client.queue("emails")
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            queue.enqueue("busy")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = [in_a_fork(lambda: queue.enqueue("child").id) for _ in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(isinstance(job_id, str) for job_id in found), found


async def test_an_async_client_used_after_a_fork_says_so(bullpen_redis):
    async with Client(bullpen_redis) as client:
        queue = client.queue("emails")
        await queue.enqueue("x")

        def child():
            async def use():
                await queue.enqueue("x")

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asyncio._set_running_loop(None)  # the parent's, of which the fork has a copy
                asyncio.run(use())

        error = in_a_fork(child)
        assert isinstance(error, BullpenError)
        assert "forked" in str(error)
        await queue.enqueue("y")


def test_a_client_belongs_to_one_loop_until_it_is_closed(bullpen_redis):
    client = Client(bullpen_redis)

    async def use():
        return await client.queue("emails").enqueue("x")

    async def use_and_close():
        async with client:
            return await use()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        with pytest.raises(BullpenError, match="another event loop"):
            second.run(use())
        first.run(client.close())
        second.run(use_and_close())  # closed: entered again, elsewhere
        first.run(use_and_close())


def test_a_closed_blocking_client_can_be_used_again(sync_client):
    sync_client.queue("emails").enqueue("x")
    sync_client.close()
    sync_client.close()
    sync_client.queue("emails").enqueue("x")
    assert sync_client.queue("emails").counts()["waiting"] == 2


async def test_a_blocking_client_on_a_running_loop_warns_once(bullpen_redis):
    with SyncClient(bullpen_redis) as client:
        with pytest.warns(BlockingCallWarning, match="use a Client"):
            client.queue("emails").enqueue("x")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client.queue("emails").enqueue("x")
    assert await asyncio.to_thread(_without_warning, bullpen_redis)


def _without_warning(url):
    with SyncClient(url) as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        return client.queue("emails").enqueue("x").id


async def test_many_calls_at_once_share_a_connection(client, raw):
    handles = await asyncio.gather(*(client.queue("emails").enqueue("x", {"n": n}) for n in range(200)))
    assert len({handle.id for handle in handles}) == 200
    # Those of the test before may be about to leave.
    await eventually(lambda: raw.info("clients")["connected_clients"] <= 3)
