"""An order to cancel holds until its job has ended, whoever has the job meanwhile."""

from __future__ import annotations

import pytest

from bullpen_worker.keeping.heartbeat import Entry
from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.orders import Orders, Source
from bullpen_worker.keeping.table import SlotTable
from tests.support.keeping import PASSING, SELF, now_ms

ENTRY = Entry("pod", 1, 2, 10, 3, 1, "working", ["welcome"], "0.1")


class Told:
    """Who is told to cancel which run."""

    def __init__(self):
        self.runs = []

    def cancel(self, run, reason):
        self.runs.append((run.table, reason))

    def policy(self, rev, doc):
        """Of no interest here."""


@pytest.fixture
def other():
    made = SlotTable.create(1)
    yield made
    made.close()


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def orders(line, queue, table, other, told):
    def runs():
        return [Run.of(each, view) for each in (table, other) for view in each.views()]

    return Orders(line, line, queue.keys, name=SELF, source=Source(lambda: ENTRY, runs), hooks=told, passing=PASSING)


async def test_one_that_goes_to_another_process_is_told_there_too(orders, client, queue, table, other, told):
    """A suspect waits in the supervisor's own table, where nobody runs it, and then moves to a child of its own."""
    table.occupy(0, job_id=b"7", token=b"t", started_ms=now_ms())
    await queue.start("7", SELF)
    await client.hset(queue.keys.cancelled, "7", '{"reason":"no need"}')
    await orders.beat()
    other.occupy(0, job_id=b"7", token=b"t", started_ms=now_ms())
    table.clear(0)
    await orders.beat()
    assert told.runs == [(table, "no need"), (other, "no need")]


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_one_that_was_given_back_is_cancelled_when_it_runs_again(
    orders, client, queue, table, told, says_goodbye
):
    table.occupy(0, job_id=b"7", token=b"t", started_ms=now_ms())
    await queue.start("7", SELF)
    await client.hset(queue.keys.cancelled, "7", '{"reason":"no need"}')
    await orders.beat()
    table.clear(0)  # its process died, and it waits again
    if says_goodbye:
        await orders.goodbye()
    await orders.beat()
    assert await client.hkeys(queue.keys.cancelled) == [b"7"]
    table.occupy(0, job_id=b"7", token=b"u", started_ms=now_ms())
    await orders.beat()
    assert told.runs == [(table, "no need")] * 2
    await client.hset(queue.keys.job("7"), "finishedOn", 1)
    table.clear(0)
    await orders.beat()
    assert not await client.exists(queue.keys.cancelled)
