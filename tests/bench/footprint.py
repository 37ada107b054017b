"""What the operator costs with 1,000 JobQueues when nothing happens, and when 200 of them are busy; restart and failover."""

import argparse
import asyncio
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from bullpen import Client
from bullpen_operator.settings import Settings
from tests.bench import handlers, herd, processes, reaction, report
from tests.bench.herd import Herd, Write

QUEUES = 1_000
LARGE = 5_000
BUSY = 200
QUIET_SECONDS = 300.0
RESYNC_BEGINS_SECONDS = 0.75 * Settings.resync_seconds
BUSY_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """What has been used so far."""

    at: float
    operator_cpu: float
    redis_cpu: float
    redis_reads: int
    """Reads from clients' sockets: a pipeline is one, or one for each 16 KiB of it."""

    @classmethod
    def take(cls, town: Herd) -> "Sample":
        """Look now."""
        with town.plain as plain:
            info = plain.info()
        cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        operator = processes.cpu_seconds(town.operator.pid)
        return cls(time.monotonic(), operator, cpu, int(info["total_reads_processed"]))


def measure(
    found: report.Report,
    log: IO[bytes],
    *,
    queues: int = QUEUES,
    seconds: float = QUIET_SECONDS,
    prefer: bool = False,
) -> None:
    """Run all of it; see `Herd.prefer`."""
    with herd.running(queues, log, zeroAfter="5s") as town:
        if prefer:
            town.prefer()
        quiet(found, town, seconds, megabytes=200 if queues <= QUEUES else 450)
        if queues <= QUEUES:
            busy(found, town)
        restart(found, town, log)
        failover(found, town, log)


def quiet(found: report.Report, town: Herd, seconds: float, *, megabytes: float) -> None:
    """Let nothing happen, while each JobQueue is looked at again as it is every ten minutes or so."""
    name = f"{len(town.names):,} quiet"
    time.sleep(max(0.0, town.started + RESYNC_BEGINS_SECONDS - time.monotonic()))
    town.audit.read()
    before, writes = Sample.take(town), len(town.audit.writes)
    time.sleep(seconds)
    after = Sample.take(town)
    town.audit.read()
    passed = after.at - before.at
    found.below(f"{name}: memory (PSS)", processes.pss_megabytes(town.operator.pid), megabytes, report.megabytes)
    others = _but_leases(town.audit.writes[writes:])
    found.below(f"{name}: API writes but the Lease in {seconds:.0f} s", len(others), 1, "{:.0f}".format)
    trips = (after.redis_reads - before.redis_reads - 2) / passed
    operator, server = (
        (after.operator_cpu - before.operator_cpu) / passed,
        (after.redis_cpu - before.redis_cpu) / passed,
    )
    if len(town.names) > QUEUES:  # these were promised of 1,000
        found.note(f"{name}: of a core", _percent(operator))
        found.note(f"{name}: round trips to Redis", report.per_second(trips))
        found.note(f"{name}: Redis of a core", _percent(server))
        return
    found.below(f"{name}: of a core", operator, 0.10, _percent)
    found.below(f"{name}: round trips to Redis", trips, 2, report.per_second)
    found.below(f"{name}: Redis of a core", server, 0.01, _percent)


def busy(found: report.Report, town: Herd) -> None:
    """Keep 200 of them busy."""
    with reaction.busy(town.redis.url, town.names[-BUSY:]):
        herd.settle(town, calm_seconds=3.0, within=120, of="deployments/scale")
        town.audit.read()
        before, writes = Sample.take(town), len(town.audit.writes)
        time.sleep(BUSY_SECONDS)
        after = Sample.take(town)
        town.audit.read()
        passed = after.at - before.at
        rate = len(_but_leases(town.audit.writes[writes:])) / passed
        found.below(f"{BUSY} busy: of a core", (after.operator_cpu - before.operator_cpu) / passed, 0.50, _percent)
        found.below(f"{BUSY} busy: API writes", rate, 10, report.per_second)
    with town.plain as plain:
        for name in town.names[-BUSY:]:
            plain.delete(f"bull:{name}:wait")
    herd.wait(lambda: town.set_to() == 0, "all to be scaled to nothing", 300)
    herd.settle(town, calm_seconds=10.0, within=300)


def restart(found: report.Report, town: Herd, log: IO[bytes]) -> None:
    """End the operator in order, and start another with everything in place."""
    town.operator.send_signal(signal.SIGTERM)
    town.operator.wait(20)
    town.audit.read()
    writes, began = len(town.audit.writes), time.monotonic()
    with herd.operator(town.server, town.probes, log) as again:
        herd.wait(lambda: _ready(town.probes), "the operator to be ready", 120)
        took = time.monotonic() - began
        time.sleep(30)
        town.audit.read()
        again.send_signal(signal.SIGTERM)
        again.wait(20)
    name = f"restart with {len(town.names):,} in place"
    found.below(f"{name}: ready after", took, 60, "{:.1f} s".format)
    found.below(f"{name}: writes but the Lease", len(_but_leases(town.audit.writes[writes:])), 1, "{:.0f}".format)


def failover(found: report.Report, town: Herd, log: IO[bytes]) -> None:
    """Have one operator lead and another wait; end the first in order, then by SIGKILL."""
    for what, ending, most in (("graceful", signal.SIGTERM, 3.0), ("killed", signal.SIGKILL, 20.0)):
        with herd.operator(town.server, town.probes, log) as first:
            herd.wait(lambda: _ready(town.probes) and _leads(town.probes), "the first to lead", 120)
            other = town.probes + 1
            with herd.operator(town.server, other, log):
                herd.wait(lambda other=other: _ready(other), "the second to be ready", 120)
                time.sleep(3)
                name = town.names[0 if ending is signal.SIGTERM else 1]
                began = time.time()
                os.kill(first.pid, ending)
                asyncio.run(_enqueue(town, name))
                herd.wait(lambda name=name, began=began: _scaled(town, name, began), "a write by the second", 60)
                took = _scaled(town, name, began)[0].at - began
                found.below(f"failover, {what}: a job gets its worker after", took, most, "{:.1f} s".format)
                first.wait(20)
        with town.plain as plain:
            plain.delete(f"bull:{name}:wait")


async def _enqueue(town: Herd, name: str) -> None:
    async with Client(town.redis.url) as client:
        for number in range(30):
            await client.queue(name).enqueue(handlers.nothing.job({"i": number}))


def _scaled(town: Herd, name: str, since: float) -> list[Write]:
    return [write for write in town.scales().get(name, ()) if write.at >= since and write.replicas]


def _but_leases(writes: Sequence[Write]) -> list[Write]:
    return [write for write in writes if write.resource != "leases"]


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.HTTPError, OSError):
        return False


def _leads(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return "bullpen_leader 1" in page.read().decode()


def _percent(share: float) -> str:
    return f"{share:.1%}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queues", type=int, default=QUEUES, help=f"{LARGE} for the large herd")
    parser.add_argument("--seconds", type=float, default=QUIET_SECONDS, help="how long nothing happens")
    parser.add_argument("--prefer", action="store_true", help="run before all else on this machine; needs root")
    parser.add_argument("--log", default="/dev/null", help="where the operator's log goes")
    told = parser.parse_args()
    figures = report.Report()
    try:
        with open(told.log, "wb") as out:  # noqa: PTH123 - may be a device
            measure(figures, out, queues=told.queues, seconds=told.seconds, prefer=told.prefer)
    finally:
        figures.print("Footprint")
