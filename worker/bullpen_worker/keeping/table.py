"""What a child process runs, slot by slot, in memory that its supervisor can read.

Concurrency model: one writer (the engine's event loop in the child), any number of readers in other processes or
threads. Nothing locks. Each slot carries a sequence number that is odd while the writer is inside; a reader that saw
an odd number, or another one after reading than before, reads again. The writer never waits for a reader, so a write
costs the hot path less than a microsecond, and a handler that holds the GIL cannot keep the supervisor from reading.

CPython offers no memory barriers. Where stores may become visible out of order (not on x86), a reader can in theory
see a mixed slot for some nanoseconds; whoever acts on a view (a lost lock, a kill) therefore reads again before
acting, which it must do anyway because jobs end meanwhile (`SlotTable.is_current`).

A table can grow, never shrink: its owner makes the memory larger (`grow`), whoever else has it open looks again (`follow`). What was
mapped before stays mapped until the table is closed, as a reader in another thread may be at it.

All times are milliseconds of `time.monotonic()`, which processes of one machine share on Linux.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final, Self

SLOT_BYTES: Final = 2048
HEADER_BYTES: Final = 4096
_FIELDS: Final = struct.Struct("=QqqHH")  # generation, started_ms, deadline_ms, length of the id, length of the token
_FIELDS_AT: Final = 8  # after the sequence number
_TEXT_AT: Final = _FIELDS_AT + _FIELDS.size
MAX_TEXT_BYTES: Final = SLOT_BYTES - _TEXT_AT
"""Job id and token of one slot together fit in this many bytes."""

_MAGIC: Final = int.from_bytes(b"bullpen1", "little")
# Words of the header.
_WORD_MAGIC, _WORD_SLOTS, _WORD_FETCH, _WORD_BEAT, _WORD_FETCHING, _WORD_CONCURRENCY = range(6)
_SPINS: Final = 100
NO_DEADLINE: Final = 0


@dataclass(frozen=True, slots=True)
class SlotView:
    """One occupied slot, read in one piece.

    `started_ms` (when the call was sent that locked the job) and `deadline_ms` are monotonic milliseconds; a deadline of 0
    means none. `generation` grows with every occupation, so a slot and its generation name one run of one job.
    """

    slot: int
    generation: int
    job_id: bytes
    token: bytes
    started_ms: int
    deadline_ms: int


class SlotTable:
    """The table of one child; make it with `create`, open it elsewhere with `attach`, `close` it on both sides."""

    __slots__ = ("_fd", "_map", "_mapped", "_offsets", "_words", "slots")

    def __init__(self, fd: int, slots: int) -> None:
        self._fd = fd
        self._mapped: list[tuple[mmap.mmap, memoryview]] = []
        self._map_rows(slots)

    def _map_rows(self, slots: int) -> None:
        self._map = mmap.mmap(self._fd, HEADER_BYTES + slots * SLOT_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._mapped.append((self._map, self._words))
        # Last: who goes by the rows that were there before finds them in either map.
        self._offsets: tuple[int, ...] = tuple(HEADER_BYTES + slot * SLOT_BYTES for slot in range(slots))
        self.slots = slots

    @classmethod
    def create(cls, slots: int) -> Self:
        """Make a table in anonymous shared memory; its `fd` may be passed to a child process.

        Raises ValueError when `slots` is not positive, OSError when the memory cannot be had.
        """
        if slots < 1:
            raise ValueError(f"a slot table needs at least one slot, not {slots}")
        fd = os.memfd_create("bullpen-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, HEADER_BYTES + slots * SLOT_BYTES)
            table = cls(fd, slots)
        except OSError:
            os.close(fd)
            raise
        table._words[_WORD_SLOTS] = slots
        table._words[_WORD_MAGIC] = _MAGIC
        return table

    @classmethod
    def attach(cls, fd: int) -> Self:
        """Open the table behind `fd` (which the table then owns).

        Raises ValueError when the descriptor is not a slot table of this version.
        """
        size = os.fstat(fd).st_size
        slots = (size - HEADER_BYTES) // SLOT_BYTES
        if slots < 1 or size != HEADER_BYTES + slots * SLOT_BYTES:
            raise ValueError(f"file descriptor {fd} is not a slot table: {size} bytes")
        table = cls(fd, slots)
        if table._words[_WORD_MAGIC] != _MAGIC or table._words[_WORD_SLOTS] != slots:
            table._fd = -1  # not ours: leave it open
            table.close()
            raise ValueError(f"file descriptor {fd} is not a slot table of this version of Bullpen")
        return table

    @property
    def fd(self) -> int:
        """The descriptor of the shared memory."""
        return self._fd

    def close(self) -> None:
        """Unmap and close; what the other side holds stays. Read afterwards, the table is empty."""
        self._offsets = ()
        for mapped, words in self._mapped:
            words.release()
            mapped.close()
        self._mapped.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def grow(self, slots: int) -> None:
        """Have at least so many rows. For who made the table. Raises OSError when the memory cannot be had."""
        if slots > self.slots:
            os.ftruncate(self._fd, HEADER_BYTES + slots * SLOT_BYTES)
            self._map_rows(slots)
            self._words[_WORD_SLOTS] = slots

    def follow(self) -> None:
        """Take in that the table has grown. For who attached it."""
        slots = (os.fstat(self._fd).st_size - HEADER_BYTES) // SLOT_BYTES
        if slots > self.slots:
            self._map_rows(slots)

    # ── the writer ────────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def fits(job_id: bytes, token: bytes) -> bool:
        """Whether an occupation with this id and token has room in a slot."""
        return len(job_id) + len(token) <= MAX_TEXT_BYTES

    def occupy(self, slot: int, *, job_id: bytes, token: bytes, started_ms: int, deadline_ms: int = NO_DEADLINE) -> int:
        """Write what runs in `slot`; returns the generation of this run.

        Raises ValueError when id and token do not fit (`fits`).
        """
        text = job_id + token
        end = len(text)
        if end > MAX_TEXT_BYTES or end == 0:
            raise ValueError(f"job id and token of {end} bytes do not fit in a slot of {MAX_TEXT_BYTES}")
        base = self._offsets[slot]
        word = base >> 3
        words = self._words
        sequence = words[word]
        generation = words[word + 1] + 1
        words[word] = sequence + 1
        _FIELDS.pack_into(
            self._map, base + _FIELDS_AT, generation, started_ms, deadline_ms, len(job_id), end - len(job_id)
        )
        base += _TEXT_AT
        self._map[base : base + end] = text
        words[word] = sequence + 2
        return generation

    def clear(self, slot: int) -> None:
        """Free `slot`; nothing in it is renewed or watched from here on."""
        base = self._offsets[slot]
        word = base >> 3
        words = self._words
        sequence = words[word]
        words[word] = sequence + 1
        words[word + 4] = 0  # both lengths
        words[word] = sequence + 2

    def mark_fetch(self, now_ms: int) -> None:
        """Say that a fetch was answered, or that the wait for a marker goes on."""
        self._words[_WORD_FETCH] = now_ms

    def beat(self, now_ms: int) -> None:
        """Say that the event loop turns."""
        self._words[_WORD_BEAT] = now_ms

    def set_fetching(self, fetching: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Say whether the engine wants jobs: it has free slots, is not held, not stopping, and Redis answers."""
        self._words[_WORD_FETCHING] = 1 if fetching else 0

    def set_concurrency(self, concurrency: int) -> None:
        """Say how many slots may be used now."""
        self._words[_WORD_CONCURRENCY] = concurrency

    # ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def last_fetch_ms(self) -> int:
        """When `mark_fetch` was last called; 0 for never."""
        return self._words[_WORD_FETCH]

    @property
    def loop_beat_ms(self) -> int:
        """When `beat` was last called; 0 for never."""
        return self._words[_WORD_BEAT]

    @property
    def fetching(self) -> bool:
        """Whether the engine wants jobs (`set_fetching`)."""
        return self._words[_WORD_FETCHING] != 0

    @property
    def concurrency(self) -> int:
        """How many slots may be used now (`set_concurrency`)."""
        return self._words[_WORD_CONCURRENCY]

    def view(self, slot: int, *, writer_gone: bool = False) -> SlotView | None:
        """What runs in `slot`; None for nothing, and for a slot that is being written all the time that it is looked at.

        A writer that is put off the processor inside of a write leaves its slot so for a while, one that dies inside of
        one for ever: with `writer_gone` such a slot is read as it is.
        """
        if slot >= len(self._offsets):  # closed, while somebody waited for Redis with a view in hand
            return None
        base = self._offsets[slot]
        word = base >> 3
        words = self._words
        for _ in range(_SPINS):
            before = words[word]
            if before & 1:
                continue
            if words[word + 4] == 0:
                return None
            raw = self._map[base : base + SLOT_BYTES]
            if words[word] == before:
                return _read(slot, raw)
        return _read(slot, self._map[base : base + SLOT_BYTES]) if writer_gone else None

    def views(self, *, writer_gone: bool = False) -> list[SlotView]:
        """All occupied slots; see `view`."""
        found = (self.view(slot, writer_gone=writer_gone) for slot in range(len(self._offsets)))
        return [view for view in found if view is not None]

    def is_current(self, view: SlotView) -> bool:
        """Whether the run that `view` saw still goes on."""
        now = self.view(view.slot)
        return now is not None and now.generation == view.generation and now.job_id == view.job_id

    @property
    def busy(self) -> int:
        """How many slots are occupied."""
        words = self._words
        return sum(1 for base in self._offsets if words[(base >> 3) + 4] != 0)


def _read(slot: int, raw: bytes) -> SlotView | None:
    generation, started_ms, deadline_ms, id_length, token_length = _FIELDS.unpack_from(raw, _FIELDS_AT)
    if id_length == 0 or id_length + token_length > MAX_TEXT_BYTES:
        return None
    middle = _TEXT_AT + id_length
    return SlotView(
        slot, generation, raw[_TEXT_AT:middle], raw[middle : middle + token_length], started_ms, deadline_ms
    )
