"""What runs beside an engine's jobs, and the first error of anything that must not fail.

Concurrency model: a `Vigil` owns the tasks of the coroutines it is given, from entering to leaving. The tasks of jobs are not
its own (there may be 30,000 a second, and what a task group does for each is dear); they report what they fail with.
"""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Vigil:
    """Runs `beside` while it is entered; `until` awaits and raises what failed meanwhile."""

    def __init__(self, *beside: Coroutine[object, object, None]) -> None:
        self._beside = beside
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(work) for work in self._beside]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        if self._failed.done():
            self._failed.exception()  # seen: `until` raised it, or something else did
        else:
            self._failed.cancel()

    def fail(self, error: BaseException) -> None:
        """Have `until` raise this; the first one counts."""
        if not self._failed.done():
            self._failed.set_exception(error)

    async def until(self, work: Coroutine[object, object, object], other: asyncio.Task[None] | None = None) -> None:
        """Await `work`; raise at once what was reported, what a task beside fails with, or `other`."""
        main = asyncio.ensure_future(work)
        others: list[asyncio.Future[None]] = [self._failed] if other is None else [self._failed, other]
        waiting: list[asyncio.Future[Any]] = [main, *others]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for each in others:
                if each.done():
                    each.result()
            await main
        finally:
            main.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
