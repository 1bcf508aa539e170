"""The clock of leases and lock deadlines, and a sleep that an event ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since an arbitrary start; never steps back."""

# CLOCK_MONOTONIC stands still while a machine sleeps, and a server's timers do not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def boottime() -> float:
    """Seconds since boot, suspended time included where the platform can tell (Linux `CLOCK_BOOTTIME`)."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


async def sleep_until_set(event: asyncio.Event, seconds: float) -> None:
    """Sleep until the event is set, at most for this many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
