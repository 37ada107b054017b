"""A worker that is the first process of its container, as in a pod: what others leave behind becomes its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bullpen_worker.executors import lineage
from bullpen_worker.supervision import orphaned
from tests.support.waiting import eventually_sync

BE_SUBREAPER = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_what_a_killed_child_leaves_behind_is_no_zombie_for_ever(lab):
    worker = lab.work(handlers="tests.chaos.littering", before=[sys.executable, "-c", BE_SUBREAPER]).ready()
    handle = lab.client.queue("chaos").enqueue("litter", {})
    eventually_sync(lambda: lab.ids("left"))
    [left] = map(int, lab.ids("left"))
    eventually_sync(lambda: not Path(f"/proc/{left}").exists() or parent_of(left) == worker.pid)
    eventually_sync(lambda: not Path(f"/proc/{left}").exists(), 30)
    handle.result(timeout="60s")
    assert worker.process.poll() is None


def test_nothing_is_taken_from_who_inherits_nothing():
    assert not lineage.inherits()
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        orphaned.reap(())
        assert ended.wait(60) == 3
