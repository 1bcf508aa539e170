"""The clocks of a process: one that never steps, for leases and deadlines, and the time of the server.

Stored times are compared by workers and schedulers on many machines, and one machine may be hours off. So times that
are stored, shown, or compared with a stored time are those of the server: `ServerClock`. A duration within one process
is measured by a `Clock`, and needs no server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

Clock = Callable[[], float]
"""Returns seconds since an arbitrary start; never steps back."""

Now = Callable[[], datetime]
"""Returns the current time, aware."""

LATEST_TIME: Final = datetime(2262, 4, 11, 23, 47, 16, tzinfo=UTC)
"""The server counts nanoseconds since 1970 in 64 bits. It takes a later time for another one, mostly for a past one."""

# CLOCK_MONOTONIC stops while a machine is suspended; the timers of a server do not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


boottime: Final[Clock] = time.monotonic if _BOOTTIME is None else partial(time.clock_gettime, _BOOTTIME)
"""Returns seconds since boot, including suspended time where the platform offers it (Linux `CLOCK_BOOTTIME`)."""

TOLERANCE: Final = timedelta(seconds=5)
"""If a machine differs by more from the server, it is told, and what its code says about time is corrected."""

KEPT_SECONDS: Final = 60.0
"""For so long an answer that took longer does not replace one that was quicker."""

_SURELY_PASSED: Final = timedelta(days=1)
"""Without a word of the server, a time counts as passed if it lies this far back."""


def utc_now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


class ServerClock:
    """The time of the server, from its answers to requests, which have the time at which they were made.

    The server made an answer between the request and its arrival. The middle of the two is taken for that moment, so
    the error is half of the round trip at the most. From there on `clock` counts: a step of this machine's own clock
    changes nothing. Before the first such answer it is the time of this machine.

    Args:
        wall: The time of this machine.
        clock: Measures the round trips, and the time since.
    """

    def __init__(self, wall: Now = utc_now, clock: Clock = boottime) -> None:
        self._wall = wall
        self._clock = clock
        self._reference: tuple[datetime, float] | None = None
        """A time of the server, and when it was on the clock."""
        self._round_trip = 0.0
        self.epoch_offset = wall().timestamp() - clock()
        """The seconds since the epoch, by the server, at zero of the clock: a way to `now` for each task. Before the
        first answer, by this machine as it was at the start."""

    def note(self, server_time: datetime, sent: float) -> None:
        """Take the time from an answer that has just arrived.

        Args:
            server_time: When the server made the answer.
            sent: When the request was sent, on the clock.
        """
        now = self._clock()
        round_trip = now - sent
        fresh = self._reference is not None and now - self._reference[1] < KEPT_SECONDS
        if not fresh or round_trip <= self._round_trip:
            middle = now - round_trip / 2
            self._reference, self._round_trip = (server_time, middle), round_trip
            self.epoch_offset = server_time.timestamp() - middle

    def now(self) -> datetime:
        """The time of the server, aware, in UTC."""
        if self._reference is None:
            return self._wall()
        server_time, at = self._reference
        return server_time + timedelta(seconds=self._clock() - at)

    @property
    def ahead(self) -> timedelta | None:
        """How far this machine's clock is ahead of the server's; negative: behind. None: the server's is not known."""
        return None if self._reference is None else self._wall() - self.now()

    def corrected(self, moment: datetime) -> datetime:
        """The time of the server at a moment that code on this machine worked out from the machine's own clock."""
        ahead = self.ahead
        if ahead is None or abs(ahead) <= TOLERANCE:
            return moment
        try:
            return moment - ahead
        except OverflowError:  # at the end of all dates
            return moment

    def has_passed(self, moment: datetime) -> bool:
        """Whether a moment has passed. While the server's time is not known, only if that is sure all the same."""
        return moment <= (self._wall() - _SURELY_PASSED if self._reference is None else self.now())
