"""What a worker does about a signal that comes while it is still being imported.

That takes a second or so, more on a busy machine, and a pod that is not wanted any more is told so at any time. There is nothing
yet to be put in order. The supervisor takes the signals over when it is there.
"""

import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_SAYS: Final = "the worker was told to stop before it had started"


def end_quietly() -> None:
    """End this process with exit code 0 and a line, whenever it is told to stop from now on."""
    for number in _STOPPING:
        signal.signal(number, _end)


def _end(_number: int, _frame: FrameType | None) -> None:
    line = _SAYS
    if not sys.stderr.isatty():  # as the logs there
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"timestamp": now, "level": "info", "event": _SAYS})
    os.write(2, f"{line}\n".encode())
    os._exit(0)  # an exception could be swallowed by whatever is being imported
