"""What scenarios are made of."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bullpen import (
    Backoff,
    Handlers,
)
from tests.redis.conformance.sides import HEAD, QUEUE, Open

Scenario = Callable[[Open, Path], Awaitable[Any]]
SOON = Backoff.fixed("20ms")


def queue(folder: Path, spec: str) -> Path:
    """A file with the queue, under a spec of its own."""
    file = folder / "queues.yaml"
    file.write_text(HEAD + "\n".join(f"  {line}" for line in spec.strip().splitlines()))
    return file


class Book:
    """Handlers of the queue, and what they write down."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.handlers = Handlers(QUEUE)

        @self.handlers.handler("note")
        async def note(number: int) -> int:
            self.lines.append(number)
            return number

        self.note = note
