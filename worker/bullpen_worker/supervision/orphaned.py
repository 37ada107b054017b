"""Processes that were left to the supervisor: as the first process of a container it inherits those whose parents have died.

A child that is killed leaves behind what its handlers had started, and its own processes for handlers. When those end, somebody must take
their exit status, else each keeps a process id for ever.
"""

import contextlib
import os
from collections.abc import Container

from bullpen_worker.executors import lineage


def reap(own: Container[int]) -> None:
    """Take the exit status of all that have ended, but for `own`, which somebody waits for. Nothing where others inherit them."""
    while lineage.inherits():
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:  # whoever waits for that one takes it soon; the others come later
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended.si_pid, os.WNOHANG)
