"""A process that must not outlive the one that started it."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even one that holds the GIL. Linux only, elsewhere nothing.

    `parent` is the parent's pid as the parent knows it: if it has ended already, this process ends here. The kernel
    looks at the parent's *thread* that started this process (prctl(2)): it must not be one that ends before. The end of
    a socket or pipe to the parent is what tells elsewhere.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
