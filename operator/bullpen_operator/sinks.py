"""Where the parts of the operator put what is worth counting: a shape, so that they know no metrics library."""

from typing import Protocol

from bullpen_operator.kube.kinds import Key


class Meter(Protocol):
    """Counts and times of the operator itself. Nothing here blocks or raises."""

    def reconciled(self, result: str, seconds: float) -> None:
        """Note a reconcile that ended: `ok`, `changed`, `refused`, `retry`, `failed`."""
        ...

    def queue_depth(self, waiting: int) -> None:
        """Note how many keys wait to be reconciled."""
        ...

    def leading(self, *, leads: bool) -> None:
        """Note whether this operator leads."""
        ...

    def forget(self, key: Key) -> None:
        """Drop all label sets of a JobQueue that is gone."""
        ...
