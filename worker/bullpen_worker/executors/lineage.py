"""Who comes after whom: a process that must not outlive its parent, and one that inherits the children of others."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_GET_CHILD_SUBREAPER: Final = 37


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


def inherits() -> bool:
    """Whether processes become this one's children when their parents die: the first of a container, or a subreaper (prctl(2))."""
    if os.getpid() == 1:
        return True
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return answer.value != 0
