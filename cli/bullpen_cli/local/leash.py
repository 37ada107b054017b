"""Has a process end with this one, however this one ends: killed, or gone with its terminal.

The process is started by a shell that becomes it. A guard, another shell in the background, reads a pipe from here: when that
ends, it tells the process to end (SIGTERM), five seconds later to give back what it runs (SIGINT), and ends it after five more.
`Leash.let_go` says before that there is nothing left to end.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Final

# $$ is the process' id: the shell becomes it by exec. Whoever has let go has said so: the id may be somebody else's by then.
_LAUNCH: Final = """
exec 3<&0 </dev/null
(
    read -r word <&3
    test "$word" = done && exit
    for signal in TERM INT; do
        kill -$signal $$; left=50
        while kill -0 $$ && test $left -gt 0; do sleep 0.1 || sleep 1; left=$((left - 1)); done
    done
    kill -KILL $$
) >/dev/null 2>&1 &
exec "$@" 3<&-
"""


class Leash:
    """One process and its guard. Start the process with `command` and, as its standard input, `held_by_it`; then `begin`."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = ("/bin/sh", "-c", _LAUNCH, "worker", *command)
        self.held_by_it, self._held = os.pipe()
        self._is_held = True

    def begin(self) -> None:
        """Close what is the process' own: it has it by now, or could not be started."""
        os.close(self.held_by_it)

    def let_go(self) -> None:
        """End the guard: the process is gone. Idempotent."""
        if not self._is_held:
            return
        self._is_held = False
        with contextlib.suppress(BrokenPipeError):
            os.write(self._held, b"done\n")
        os.close(self._held)
