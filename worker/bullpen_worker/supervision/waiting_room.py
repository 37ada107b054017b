"""Jobs that are active and run in no child right now: their locks are kept here meanwhile.

Two sorts. Suspects wait for a process of their own; an overdue job, whose process was ended because of it, waits for
another child to write down that its attempt timed out.
"""

from collections import deque
from collections.abc import Iterable

from bullpen_worker.keeping.leases import Run
from bullpen_worker.keeping.table import SlotTable
from bullpen_worker.supervision.children import Child, occupy
from bullpen_worker.supervision.control import Ticket


class WaitingRoom:
    """Belongs to the supervisor's loop, which is also the one writer of `table`."""

    def __init__(self, rows: int) -> None:
        self.table = SlotTable.create(rows)
        self._free = deque(range(rows))
        self._slots: dict[Ticket, int] = {}
        self._suspects: deque[tuple[Ticket, Child]] = deque()
        self._overdue: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._slots)

    def add_suspect(self, ticket: Ticket, origin: Child) -> bool:
        """Let it wait for a process of its own; False when there is no room, or it waits already."""
        if not self._admit(ticket):
            return False
        self._suspects.append((ticket, origin))
        return True

    def next_suspect(self) -> tuple[Ticket, Child] | None:
        """Give the one that has waited longest; it stays here until `leave`."""
        return self._suspects.popleft() if self._suspects else None

    def add_overdue(self, ticket: Ticket) -> bool:
        """Let it wait to be ended as timed out."""
        if not self._admit(ticket):
            return False
        self._overdue.append(ticket)
        return True

    def take_overdue(self) -> tuple[Ticket, ...]:
        """Give those that nobody has taken on yet; they stay here until `leave`."""
        taken, self._overdue = tuple(self._overdue), []
        return taken

    def again(self, overdue: Iterable[Ticket]) -> None:
        """Whoever had taken these on has ended without doing it."""
        self._overdue += [ticket for ticket in overdue if ticket in self._slots]

    def leave(self, ticket: Ticket) -> None:
        """Keep its lock no longer."""
        slot = self._slots.pop(ticket, None)
        if slot is not None:
            self.table.clear(slot)
            self._free.append(slot)

    def leave_job(self, job_id: str) -> None:
        """Do the same, by the job's id."""
        for ticket in [ticket for ticket in self._slots if ticket.job_id == job_id]:
            self.leave(ticket)

    def lose(self, run: Run) -> list[Child]:
        """Take in that the lock is gone. Gives the children that wait for their slot back."""
        lost = [ticket for ticket, slot in self._slots.items() if slot == run.view.slot]
        origins = [origin for ticket, origin in self._suspects if ticket in lost]
        self._suspects = deque(waiting for waiting in self._suspects if waiting[0] not in lost)
        self._overdue = [ticket for ticket in self._overdue if ticket not in lost]
        for ticket in lost:
            self.leave(ticket)
        return origins

    def close_down(self, *, suspects_only: bool = False) -> list[Run]:
        """Let nobody wait any more, or no suspect: gives the runs whose jobs are to be handed back, which stay until `leave`."""
        leaving = {ticket for ticket, _ in self._suspects} if suspects_only else set(self._slots)
        self._suspects.clear()
        if not suspects_only:
            self._overdue.clear()
        return self.runs_of(*leaving)

    def runs_of(self, *tickets: Ticket) -> list[Run]:
        """Give the entries of these jobs in the table, those that are still here."""
        slots = {self._slots[ticket] for ticket in tickets if ticket in self._slots}
        return [Run.of(self.table, view) for view in self.table.views() if view.slot in slots]

    def _admit(self, ticket: Ticket) -> bool:
        if ticket in self._slots or not self._free:
            return False
        slot = self._free.popleft()
        occupy(self.table, slot, ticket)
        self._slots[ticket] = slot
        return True
