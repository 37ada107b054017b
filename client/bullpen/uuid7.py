"""Ids of jobs: UUIDs of version 7 (RFC 9562), which sort by the millisecond in which they were made."""

import os
from collections.abc import Callable


def mint(now_ms: int, random: Callable[[int], bytes] = os.urandom) -> str:
    """Make an id. `random` gives so many random bytes; the system's own needs no state, so a fork repeats nothing."""
    value = int.from_bytes(random(10), "big")
    value = (
        (now_ms & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (value >> 64 & 0xFFF) << 64
        | 0b10 << 62
        | (value & 0x3FFF_FFFF_FFFF_FFFF)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
