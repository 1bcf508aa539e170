"""How long a task waits when its lock is busy, so that many tasks behind one lock cost their worker little.

Each return of a task costs the worker 1 to 2 ms of CPU when it comes back alone, most of it for pulling from all three
queues, whether or not it gets its lock. Ten thousand tasks that come back every 5 s would keep a core busy with
nothing. So the tasks of one worker that wait for one key come back one at a time:

    due = max(now + delay, due of the task before + spacing)

`spacing` is two thirds of the time from one success to the next where the lock knows that time (a rate limiter does),
or 50 ms. 50 ms are 20 tries a second, a few per cent of a core, and finds a released lock within about 50 ms. With up
to 100 waiting tasks the delay of 5 s rules, as if each task were alone.

The times are kept in memory. A crash loses them, which is harmless: the first round of tries makes them anew.
"""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import UnableToAcquireLockError

SPACING_SECONDS: Final = 0.05
LIMITER_SPEEDUP: Final = 1.5
"""Tasks that return exactly as fast as a limiter admits them leave each permit unused for one round trip."""
MAX_KEYS: Final = 1_000
LOG_INTERVAL_SECONDS: Final = 1.0


class LockBackoff:
    """The waits of the tasks of one worker, by lock key.

    Args:
        delay: How long one task waits, give or take a quarter, when its lock does not know better.
    """

    def __init__(self, delay: timedelta, clock: Clock = boottime) -> None:
        self._delay = delay
        self._clock = clock
        self._last_due: dict[str, float] = {}
        self._quiet_until = 0.0
        self._max_keys = MAX_KEYS

    def delay(self, error: UnableToAcquireLockError) -> timedelta:
        """How long a task waits whose lock refused it with `error`. The next task of that key waits for longer."""
        now = self._clock()
        if error.retry_after is not None:
            due = now + error.retry_after.total_seconds()
        else:
            # Jitter: tasks that found one lock busy together should not come back together.
            due = now + self._delay.total_seconds() * random.uniform(0.75, 1.25)
        spacing = SPACING_SECONDS if error.pace is None else error.pace.total_seconds() / LIMITER_SPEEDUP
        if (before := self._last_due.get(error.key)) is not None:
            due = max(due, before + spacing)
        self._remember(error.key, due, now)
        return timedelta(seconds=due - now)

    def should_log(self) -> bool:
        """Whether to log a wait at level INFO: about once a second, however many tasks wait."""
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + LOG_INTERVAL_SECONDS
        return True

    def _remember(self, key: str, due: float, now: float) -> None:
        self._last_due[key] = due
        if len(self._last_due) > self._max_keys:
            self._last_due = {key: due for key, due in self._last_due.items() if due > now}
            self._max_keys = max(MAX_KEYS, 2 * len(self._last_due))
