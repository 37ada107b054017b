"""The slot table: what one process writes, another reads whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpen_worker.keeping.table import MAX_TEXT_BYTES, SlotTable, SlotView


@pytest.fixture
def table():
    made = SlotTable.create(4)
    yield made
    made.close()


def occupy(table, slot, job_id=b"7", token=b"t", started_ms=1, deadline_ms=2):
    return table.occupy(slot, job_id=job_id, token=token, started_ms=started_ms, deadline_ms=deadline_ms)


def test_a_new_table_is_empty(table):
    assert table.views() == []
    assert (table.busy, table.last_fetch_ms, table.loop_beat_ms, table.fetching) == (0, 0, 0, False)


def test_what_was_written_is_read(table):
    generation = occupy(table, 2, b"order-1", b"token", 10, 20)
    assert table.views() == [SlotView(2, generation, b"order-1", b"token", 10, 20)]
    assert table.busy == 1


def test_another_mapping_of_the_same_memory_sees_it(table):
    other = SlotTable.attach(os.dup(table.fd))
    occupy(table, 0)
    table.mark_fetch(11)
    table.beat(12)
    table.set_fetching(True)
    table.set_concurrency(3)
    assert other.views() == table.views()
    assert (other.last_fetch_ms, other.loop_beat_ms, other.fetching, other.concurrency) == (11, 12, True, 3)
    other.close()


def test_a_cleared_slot_is_gone_and_its_next_run_has_another_generation(table):
    first = occupy(table, 1)
    view = table.view(1)
    assert table.is_current(view)
    table.clear(1)
    assert table.view(1) is None
    assert not table.is_current(view)
    assert occupy(table, 1) == first + 1
    assert not table.is_current(view)


@pytest.mark.parametrize("length", [MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1])
def test_only_what_fits_is_taken(table, length):
    job_id = b"x" * (length - 1)
    assert SlotTable.fits(job_id, b"t") is (length <= MAX_TEXT_BYTES)
    if length <= MAX_TEXT_BYTES:
        occupy(table, 0, job_id)
        assert table.view(0).job_id == job_id
    else:
        with pytest.raises(ValueError, match="do not fit"):
            occupy(table, 0, job_id)


def test_a_writer_that_died_inside_a_write_leaves_a_readable_slot(table):
    occupy(table, 0, b"job", b"token")
    table._words[4096 // 8] += 1  # the odd sequence number that a killed writer leaves
    assert table.view(0) is None
    assert table.view(0, writer_gone=True).job_id == b"job"
    assert [view.job_id for view in table.views(writer_gone=True)] == [b"job"]


def test_a_closed_table_is_empty():
    """A keeper may have a view in hand, and wait for Redis, while the table's child is put away."""
    made = SlotTable.create(2)
    occupy(made, 0)
    [view] = made.views()
    made.close()
    assert made.views() == []
    assert not made.is_current(view)


def test_what_is_no_table_is_refused():
    fd = os.memfd_create("other")
    os.ftruncate(fd, 4096 + 2048)
    with pytest.raises(ValueError, match="not a slot table"):
        SlotTable.attach(fd)
    os.ftruncate(fd, 100)
    with pytest.raises(ValueError, match="not a slot table"):
        SlotTable.attach(fd)
    os.close(fd)
    with pytest.raises(ValueError, match="at least one slot"):
        SlotTable.create(0)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.none(), st.binary(min_size=1, max_size=900))), min_size=1, max_size=30
    )
)
def test_the_table_equals_a_dictionary(steps):
    table = SlotTable.create(4)
    model: dict[int, bytes] = {}
    for slot, job_id in steps:
        if job_id is None:
            table.clear(slot)
            model.pop(slot, None)
        else:
            occupy(table, slot, job_id, job_id[::-1])
            model[slot] = job_id
    assert {view.slot: view.job_id for view in table.views()} == model
    assert all(view.token == view.job_id[::-1] for view in table.views())
    assert table.busy == len(model)
    table.close()


WRITER = """
import sys
from bullpen_worker.keeping.table import SlotTable
table = SlotTable.attach(int(sys.argv[1]))
print("ready", flush=True)
n = 0
while True:
    n += 1
    text = str(n % 10).encode() * (5 + n % 200)
    table.occupy(0, job_id=text, token=text, started_ms=n, deadline_ms=n)
    if n % 7 == 0:
        table.clear(0)
"""


def test_no_torn_slot_is_read_while_another_process_writes(table):
    fd = os.dup(table.fd)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"ready\n"
        seen = set()
        end = time.monotonic() + 100
        while len(seen) < 3000 and time.monotonic() < end:
            view = table.view(0)
            if view is None:
                continue
            n = view.generation
            assert view.started_ms == view.deadline_ms == n
            assert view.job_id == view.token == str(n % 10).encode() * (5 + n % 200)
            seen.add(n)
        assert len(seen) == 3000
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
        os.close(fd)


def test_a_table_grows_and_who_attached_it_follows(table):
    other = SlotTable.attach(os.dup(table.fd))
    rows = table.slots
    other.occupy(0, job_id=b"early", token=b"t", started_ms=1)
    table.grow(rows - 1)  # never smaller
    assert table.slots == rows
    table.grow(10 * rows)
    assert [view.job_id for view in table.views()] == [b"early"]
    with pytest.raises(IndexError):
        other.occupy(rows, job_id=b"late", token=b"t", started_ms=2)
    other.follow()
    assert other.slots == table.slots == 10 * rows
    other.occupy(10 * rows - 1, job_id=b"late", token=b"t", started_ms=2)
    other.mark_fetch(7)
    assert [view.job_id for view in table.views()] == [b"early", b"late"]
    assert table.last_fetch_ms == 7
    other.clear(0)
    assert table.busy == 1
    other.close()
    third = SlotTable.attach(os.dup(table.fd))
    assert third.slots == 10 * rows
    third.close()


def test_a_reader_in_another_thread_is_not_disturbed_by_growth(table):
    table.occupy(0, job_id=b"job", token=b"t", started_ms=1)
    wrong, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen = table.view(0)
            if seen is None or seen.job_id != b"job":
                wrong.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for rows in range(10, 400, 10):
        table.grow(rows)
    over.set()
    reader.join()
    assert not wrong
