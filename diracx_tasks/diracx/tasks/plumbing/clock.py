"""The clock of leases and lock deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

Clock = Callable[[], float]
"""Returns seconds since an arbitrary start; never steps back."""

# CLOCK_MONOTONIC stops while a machine is suspended; the timers of a server do not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


boottime: Final[Clock] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Returns seconds since boot, including suspended time where the platform offers it (Linux `CLOCK_BOOTTIME`)."""
