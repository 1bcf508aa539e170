"""How long a task waits whose lock is busy, so that a crowd behind one lock costs its worker little.

Each time a task comes back alone it costs the worker 1 to 2 ms of CPU, most of it for asking all three queues for
more, whether or not it gets its lock. Ten thousand tasks that come back every 5 s would keep a core busy with nothing.
So the tasks of one key come back one at a time,

    due = max(now + delay, due of the one before + pace)

where `pace` is what the lock itself says of the time from one success to the next (a rate limiter knows), or 50 ms:
20 looks a second, which is a few per cent of a core and finds a lock that comes free within about 50 ms. Up to 100
tasks the delay of 5 s rules, as if there were no crowd.

The estimate is of this process alone, and lost with it. That harms nothing: the first time round it is made anew.
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError

_PACE: Final = 0.05
_HASTE: Final = 1.5
"""Who comes at the very pace of a limiter leaves its slots idle for as long as it takes to come."""
_MANY: Final = 1_000
_QUIET: Final = 1.0


class Crowds:
    """The tasks of one worker that wait for locks, by key.

    Args:
        delay: How long one waits, give or take a quarter, when its lock does not know better.
    """

    def __init__(self, delay: timedelta, clock: Clock = boottime) -> None:
        self._delay = delay
        self._clock = clock
        self._last_due: dict[str, float] = {}
        self._quiet_until = 0.0
        self._many = _MANY

    def delay(self, error: UnableToAcquireLockError) -> timedelta:
        """How long the task waits that was refused with `error`."""
        now = self._clock()
        if error.retry_after is not None:
            due = now + error.retry_after.total_seconds()
        else:
            # Jitter: those that found one lock busy together should not come back together.
            due = now + self._delay.total_seconds() * random.uniform(0.75, 1.25)
        pace = _PACE if error.pace is None else error.pace.total_seconds() / _HASTE
        if (before := self._last_due.get(error.key)) is not None:
            due = max(due, before + pace)
        self._remember(error.key, due, now)
        return timedelta(seconds=due - now)

    def worth_a_line(self) -> bool:
        """Whether a wait should be logged for people: for a crowd, about once a second."""
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _QUIET
        return True

    def _remember(self, key: str, due: float, now: float) -> None:
        self._last_due[key] = due
        if len(self._last_due) > self._many:
            self._last_due = {key: due for key, due in self._last_due.items() if due > now}
            self._many = max(_MANY, 2 * len(self._last_due))
