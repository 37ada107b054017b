"""Ids of jobs: UUIDs of version 7 (RFC 9562), which sort by the millisecond in which they were made."""

import os
from collections.abc import Callable
from typing import Final

_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # its two upper bits are 10


def mint(now_ms: int, random: Callable[[int], bytes] = os.urandom) -> str:
    """Make an id. `random` gives so many random bytes; the system's own needs no state, so a fork repeats nothing."""
    bits = random(10).hex()
    time = f"{now_ms & 0xFFFF_FFFF_FFFF:012x}"
    return f"{time[:8]}-{time[8:]}-7{bits[:3]}-{_VARIANT[bits[3]]}{bits[4:7]}-{bits[7:19]}"
