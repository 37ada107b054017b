"""What happens to objects, as it happens."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.kubernetes.api import Api, Object


@dataclass(frozen=True)
class Happened:
    """One event of a watch."""

    at: float
    """When it came here, by `time.time()`."""
    type: str
    object: Object


class Watch:
    """A watch that a thread reads until it ends, or is closed. It does not begin anew: a cut one is seen to end."""

    def __init__(self, api: Api, version: str, kind: str, namespace: str = "", *, labels: str = "") -> None:
        self.events: list[Happened] = []
        self.ended = threading.Event()
        self._connection = api.connect(timeout_s=600)
        path = api.path(version, kind, namespace)
        query = f"?watch=true&allowWatchBookmarks=false&labelSelector={labels}"
        self._thread = threading.Thread(target=self._run, args=(path + query, api.headers), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        socket = self._connection.sock
        if socket is not None:
            with contextlib.suppress(OSError):
                socket.shutdown(2)
        self._thread.join(60)

    def first(self, condition: Callable[[Object], bool]) -> dict[str, Happened]:
        """For each object, by its name: the first event in which this was so of it."""
        found: dict[str, Happened] = {}
        for event in list(self.events):
            if condition(event.object):
                found.setdefault(event.object["metadata"]["name"], event)
        return found

    def _run(self, path: str, headers: dict[str, str]) -> None:
        try:
            self._connection.request("GET", path, headers=headers)
            answer = self._connection.getresponse()
            while line := answer.readline():
                event = json.loads(line)
                self.events.append(Happened(time.time(), event["type"], event["object"]))
        except (OSError, http.client.HTTPException, ValueError):
            pass  # it was cut: `ended` says it
        finally:
            self._connection.close()
            self.ended.set()
