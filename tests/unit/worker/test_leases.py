"""How long locks hold, on a virtual clock."""

from __future__ import annotations

import pytest

from bullpen_worker.keeping.leases import HEARD_MS, Leases, Run
from bullpen_worker.keeping.table import SlotTable

LOCK_MS = 9_000


@pytest.fixture
def table():
    made = SlotTable.create(3)
    yield made
    made.close()


def start(table, slot, at_ms=0):
    table.occupy(slot, job_id=b"job%d" % slot, token=b"t", started_ms=at_ms)


def runs(table):
    return [Run.of(table, view) for view in table.views()]


def look(leases, table, now_ms):
    due, lost = leases.look(runs(table), now_ms)
    return [run.view.slot for run in due], [run.view.slot for run in lost]


def test_a_young_job_needs_nothing_and_an_old_one_renews_all(table):
    leases = Leases(LOCK_MS)
    start(table, 0, 0)
    start(table, 1, 2_500)
    assert look(leases, table, 2_999) == ([], [])
    assert look(leases, table, 3_000) == ([0, 1], [])


def test_what_was_renewed_is_young_again(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    due, _ = leases.look(runs(table), 3_000)
    leases.renewed(due, 3_000, LOCK_MS)
    assert look(leases, table, 5_999) == ([], [])
    assert look(leases, table, 6_000) == ([0], [])


def test_what_was_not_renewed_in_time_is_lost_once(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    assert look(leases, table, 8_999) == ([0], [])
    assert look(leases, table, 9_000) == ([], [0])
    assert look(leases, table, 9_001) == ([], [])


def test_a_lock_holds_from_when_its_renewal_was_sent(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    due, _ = leases.look(runs(table), 3_000)
    leases.renewed(due, 3_000, LOCK_MS)  # answered long after
    assert look(leases, table, 12_000) == ([], [0])


def test_what_redis_says_is_lost_stays_lost(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    [run] = runs(table)
    leases.look([run], 100)
    assert leases.lose(run) is True
    assert leases.lose(run) is False
    leases.renewed([run], 200, LOCK_MS)
    assert look(leases, table, 3_500) == ([], [])


def test_the_next_run_of_a_slot_begins_anew(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    leases.look(runs(table), 9_000)
    table.clear(0)
    start(table, 0, 9_100)
    assert look(leases, table, 9_200) == ([], [])
    assert look(leases, table, 12_100) == ([0], [])


def renew(leases, table, now_ms):
    due, lost = leases.look(runs(table), now_ms)
    leases.renewed(due, now_ms, leases.lock_ms)
    return [run.view.slot for run in due], [run.view.slot for run in lost]


def test_a_shorter_lock_is_no_loss_of_those_that_hold_for_longer(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    assert renew(leases, table, 2_000) == ([], [])
    start(table, 1, 1_900)  # not seen before
    leases.lock_ms = 900
    assert leases.tick_ms == 75
    assert renew(leases, table, 2_900) == ([0, 1], [])
    assert renew(leases, table, 3_100) == ([], [])
    assert renew(leases, table, 3_200) == ([0, 1], [])
    assert look(leases, table, 4_100) == ([], [0, 1])


def test_until_redis_has_taken_a_shorter_lock_the_longer_one_holds(table):
    leases = Leases(LOCK_MS)
    start(table, 0)
    look(leases, table, 1_000)
    leases.lock_ms = 900
    assert look(leases, table, 2_000) == ([0], [])
    assert look(leases, table, 8_999) == ([0], [])
    assert look(leases, table, 9_000) == ([], [0])


def test_for_a_longer_lock_the_shorter_ones_are_renewed_at_once(table):
    leases = Leases(900)
    start(table, 0)
    assert renew(leases, table, 100) == ([], [])
    leases.lock_ms = LOCK_MS
    assert renew(leases, table, 200) == ([0], [])
    start(table, 1, 300)  # by a process that has not heard of it
    assert leases.tick_ms == 75
    assert renew(leases, table, 500) == ([], [])
    assert renew(leases, table, 600) == ([0, 1], [])
    assert renew(leases, table, 3_500) == ([], [])
    table.clear(0)
    table.clear(1)
    assert renew(leases, table, 200 + HEARD_MS) == ([], [])
    assert leases.tick_ms == 750
    start(table, 2, 300 + HEARD_MS)
    assert renew(leases, table, 1_300 + HEARD_MS) == ([], [])
