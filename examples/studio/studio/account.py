"""The account at the end of the demo: five books that were kept apart, and must agree.

The producer's count of what it asked, the workers' count of what they did, the pictures on the disk, the mails that
were caught, and the ledger beside the gateway's own list of charges.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One queue's line, times in milliseconds."""

    queue: str
    calls: int
    enqueued: int
    completed: int
    retried: int
    dead: int
    wait_mean: float
    wait_p95: float
    run_mean: float
    run_p95: float


@dataclass(frozen=True)
class World:
    """What lies outside of Redis after the run."""

    sketches: int
    mails: int
    entries: int
    charges: int
    declined: int


def rows(asked: Mapping[str, Mapping[str, int]], report: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Join the producer's numbers with those of `bullpen dev --report`."""
    return [
        Row(
            queue=queue,
            calls=numbers["calls"],
            enqueued=numbers["jobs"],
            completed=int(report[queue]["completed"]),
            retried=int(report[queue]["retried"]),
            dead=int(report[queue]["failed"]),
            wait_mean=report[queue]["waitMeanMs"],
            wait_p95=report[queue]["waitP95Ms"],
            run_mean=report[queue]["runMeanMs"],
            run_p95=report[queue]["runP95Ms"],
        )
        for queue, numbers in asked.items()
    ]


def disagreements(asked: Mapping[str, Mapping[str, int]], account: list[Row], world: World) -> Iterator[str]:
    """Name each pair of books that do not agree."""
    by_queue = {row.queue: row for row in account}
    for row in account:
        seen = asked[row.queue]
        if row.enqueued != row.completed + row.dead:
            yield f"{row.queue}: {row.enqueued} enqueued, but {row.completed} completed and {row.dead} dead"
        if (seen["completed"], seen["failed"]) != (row.completed, row.dead):
            yield (
                f"{row.queue}: the producer saw {seen['completed']} completed and {seen['failed']} failed,"
                f" the workers {row.completed} and {row.dead}"
            )
    pairs = [
        ("sketches on the disk", world.sketches, "completed sketches", by_queue["sketch-generation"].completed),
        ("mails caught", world.mails, "completed notifications", by_queue["email-notifications"].completed),
        ("entries in the ledger", world.entries, "completed payments", by_queue["payment-processing"].completed),
        ("charges at the gateway", world.charges, "entries in the ledger", world.entries),
        ("cards declined", world.declined, "dead payments", by_queue["payment-processing"].dead),
    ]
    for name, count, other_name, other in pairs:
        if count != other:
            yield f"{count} {name}, but {other} {other_name}"


def table(account: list[Row]) -> Table:
    """Lay the account out for the terminal; it fits into 80 columns."""
    drawn = Table(title="What the studio did", title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    drawn.add_column("queue", no_wrap=True)
    for heading in ("enqueued", "completed", "retried", "dead", "wait/p95", "run/p95"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in account:
        counts = (row.enqueued, row.completed, row.retried, row.dead)
        times = (times_of(row.wait_mean, row.wait_p95), times_of(row.run_mean, row.run_p95))
        drawn.add_row(row.queue, *(str(count) for count in counts), *times)
    return drawn


def times_of(mean: float, p95: float) -> str:
    """Write mean and p95 in the unit that fits both."""
    return f"{mean / 1000:.1f}/{p95 / 1000:.1f} s" if p95 >= 1000 else f"{mean:.0f}/{p95:.0f} ms"


def suppressed(account: list[Row]) -> int:
    """Count the calls that found their job there already."""
    return sum(row.calls - row.enqueued for row in account)
