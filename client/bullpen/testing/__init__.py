"""For users' tests: queues and a clock in memory (`Harness`), and a real Redis (the pytest fixture `bullpen_redis`)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bullpen.testing.attempts import HandlerStuck, HarnessError
    from bullpen.testing.harness import Harness, SyncHarness

__all__ = ["HandlerStuck", "Harness", "HarnessError", "SyncHarness"]


def __getattr__(name: str) -> object:
    # pytest imports this package for its plugin in every run, also of those who never use a harness.
    if name in {"Harness", "SyncHarness"}:
        from bullpen.testing import harness  # noqa: PLC0415

        return getattr(harness, name)
    if name in {"HarnessError", "HandlerStuck"}:
        from bullpen.testing import attempts  # noqa: PLC0415

        return getattr(attempts, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
