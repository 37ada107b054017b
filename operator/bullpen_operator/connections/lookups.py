"""Looks names of hosts up, for whoever named them: a name server that answers slowly holds up its own namespace alone.

The system's resolver blocks a thread, for many seconds where nobody answers, and nothing ends it sooner. The event loop's own
threads are few and serve everybody. So look-ups have threads of their own, and each namespace a few of those at a time; a
look-up counts until its thread is free again, however long ago its caller gave up.
"""

import asyncio
import ipaddress
import itertools
import socket
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bullpen.redis.failures import ConnectFailed

THREADS: Final = 64
AT_ONCE: Final = 2
"""Look-ups of one namespace."""

Resolve = Callable[[str, int], list[str]]
"""Gives the addresses of a host, in the order to be tried; blocks. Raises `OSError`."""


def by_the_system(host: str, port: int) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Lookups:
    """See the module. Belongs to one event loop; `close` waits for nobody."""

    def __init__(self, resolve: Resolve = by_the_system) -> None:
        self._resolve = resolve
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="look-up")
        self._free: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self._turn = itertools.count()

    def close(self) -> None:
        """Begin no further look-up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def find(self, namespace: str, host: str, port: int, *, within: float) -> str:
        """Give an address of the host: the next one each time, where it has several. Raises `ConnectFailed`."""
        if _is_address(host):
            return host
        waiting = True
        try:
            async with asyncio.timeout(within):
                turn = self._free[namespace]
                await turn.acquire()
                waiting = False
                running = asyncio.get_running_loop().run_in_executor(self._threads, self._resolve, host, port)
                running.add_done_callback(lambda done: _done(turn, done))
                found = await asyncio.shield(running)
        except TimeoutError:
            msg = f"the host name {host} cannot be resolved: no answer within {within:g} s"
            if waiting:
                msg = (
                    f"the host name {host} is not looked up yet: those of other connections of namespace {namespace} have not "
                    "been answered; see that they are right"
                )
            raise ConnectFailed(msg) from None
        except (OSError, ValueError) as error:  # ValueError: what can be no name, such as one with two dots in a row
            why = error.strerror if isinstance(error, OSError) and error.strerror else "there can be no such name"
            msg = f"the host name {host} cannot be resolved: {why}"
            raise ConnectFailed(msg) from error
        if not found:
            msg = f"the host name {host} cannot be resolved: it has no address"
            raise ConnectFailed(msg)
        return found[next(self._turn) % len(found)]


def _done(turn: asyncio.Semaphore, done: "asyncio.Future[list[str]]") -> None:
    turn.release()
    if not done.cancelled():
        done.exception()  # seen, also where the caller gave up


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
