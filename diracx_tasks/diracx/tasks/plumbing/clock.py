"""The clock of leases and lock deadlines, and a sleep that an event ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

Clock = Callable[[], float]
"""Returns seconds since an arbitrary start; never steps back."""

# CLOCK_MONOTONIC stops while a machine is suspended; the timers of a server do not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


def boottime() -> float:
    """Return seconds since boot, including suspended time where the platform offers it (Linux `CLOCK_BOOTTIME`)."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds`, or until `event` is set when that is sooner. Returns whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
