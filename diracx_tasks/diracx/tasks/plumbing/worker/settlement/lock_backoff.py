"""How long a task waits when its lock is busy or the configuration holds it, so that many of them cost little.

The wait grows with the refusals of one task in a row:

    refusal   1  2   3   4   5  6...
    wait      5  5  10  20  40  48 s     give or take a quarter, so a minute at the most; for `--lock-retry-delay 5`

* So a task that has waited for a while waits for about as long again, and a minute at the most. A lock that was busy
  for seconds is found free within seconds; one that was busy for an hour, within a minute. A task that waits for an
  hour costs 80 deliveries, not 720. An occurrence of a periodic task that waits for the one before is no different: if
  it comes back too late, it gives way to the next one, which asks at once.
* A lock that changes hands is served to one task after another, and must not lie idle until a waiting task comes back.
  So nobody waits longer than this worker has seen the present owner hold it, or 5 s. The worker notes the owner that
  each refusal names.
* The refusals are counted from the deliveries of the message (`Attempts.refusals`), so a busy lock costs no write, and
  the count holds in all workers and through their restarts. A server that was killed forgets some: the wait is shorter.
* `BaseTask.lock_retry_delay` of a task replaces all of this, and a lock that knows when to ask again replaces both: a
  rate limiter, or a writer's lock behind readers. The task comes back a minute later at the latest all the same, since
  an operator may raise the limit.

The tasks of one worker that wait for one key come back one at a time. Each return costs the worker 1 to 2 ms of CPU
when it comes back alone, most of it for pulling from all three queues, whether or not it gets its lock:

    due = max(now + delay, due of the task before + spacing)

`spacing` is 50 ms. That is 20 tries a second, a few per cent of a core, and finds a released lock within about 50 ms.
With up to 100 waiting tasks the delay of 5 s rules, as if each task were alone. Where the lock knows the time from one
success to the next (a rate limiter does), it is two thirds of that for the tasks that come back within a minute; those
after them follow 50 ms apart, so that a raised limit is found by all of them.

Held tasks wait likewise, by the path of the setting in place of a key, without growth: they run soon after an operator
enables them. None of them waits for another one, so they come back in batches, at each full second of the clock: 200
together cost no more than 20 one by one. A delivery that was held counts as a refusal of a lock afterwards, since it
wrote nothing either.

The times are kept in memory. A crash loses them, which is harmless: the first round of tries makes them anew.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.execution.job import Held, LockBusy

SPACING_SECONDS: Final = 0.05
HELD_BATCH_SIZE: Final = 200
"""The number of tasks, held by one setting, that come back together."""
LIMITER_SPEEDUP: Final = 1.5
"""Tasks that return exactly as fast as a limiter admits them leave each permit unused for one round trip."""
JITTER: Final = 0.25
"""Tasks that found one lock busy together should not come back together."""
LONGEST_SECONDS: Final = 48.0
"""The wait grows to this, a minute with its jitter, or to the delay of the worker if that is longer."""
RECHECK_SECONDS: Final = 60.0
"""Tasks behind a rate limiter come back no later than this, but for their spacing."""
LONGEST_WANTED: Final = timedelta(days=365)
"""The server knows no longer delay."""
MAX_KEYS: Final = 1_000
LOG_INTERVAL_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Waiting:
    """The tasks that wait for one key."""

    last_due: float = -math.inf
    owner: str | None = None
    """The owner that the latest refusal named, with the time of its acquisition; None: none was named."""
    owner_since: float = -math.inf
    """When a refusal first named that owner in place of another one; endless: this worker knew no other one."""


class LockBackoff:
    """The waits of the tasks of one worker, by the key of the lock or the path of the setting.

    Args:
        delay: How long one task waits at first, give or take a quarter, when neither it nor its lock knows better.
    """

    def __init__(self, delay: timedelta, clock: Clock = boottime) -> None:
        self._seconds = delay.total_seconds()
        self._clock = clock
        self._by_key: dict[str, _Waiting] = {}
        self._quiet_until = 0.0
        self._max_keys = MAX_KEYS

    def delay(self, outcome: LockBusy | Held) -> timedelta:
        """How long a task waits that ended so. The next task of that key or path waits for longer."""
        now = self._clock()
        if isinstance(outcome, Held):
            return timedelta(seconds=self._held_until(outcome, now) - now)
        waiting, pace = self._waiting(outcome.error.key, now), outcome.error.pace
        _note_owner(waiting, outcome.error.holder, now)
        due = now + self._wait(outcome, now - waiting.owner_since)
        after = waiting.last_due + SPACING_SECONDS
        if pace is not None:
            after = min(waiting.last_due + pace.total_seconds() / LIMITER_SPEEDUP, max(now + RECHECK_SECONDS, after))
        waiting.last_due = max(due, after)
        return timedelta(seconds=waiting.last_due - now)

    def should_log(self) -> bool:
        """Whether to log a wait at level INFO: about once a second, however many tasks wait."""
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + LOG_INTERVAL_SECONDS
        return True

    def _held_until(self, outcome: Held, now: float) -> float:
        """When a held task returns; with others at a full second, if it would return after another one."""
        waiting = self._waiting(outcome.path, now)
        due, after = now + self._seconds * _jitter(), waiting.last_due + 1 / HELD_BATCH_SIZE
        waiting.last_due = max(due, after)
        return due if due >= after else math.ceil(after)

    def _wait(self, outcome: LockBusy, owned_seconds: float) -> float:
        """The wait of a task in seconds, as if no other task waited for its key.

        Args:
            owned_seconds: For how long this worker has known the present owner of the lock.
        """
        if outcome.error.retry_after is not None:
            return min(outcome.error.retry_after.total_seconds(), RECHECK_SECONDS)
        if outcome.wanted_delay is not None:
            return min(outcome.wanted_delay, LONGEST_WANTED).total_seconds()
        grown = self._seconds * 2.0 ** min(max(outcome.refusals - 2, 0), 30)  # bounded: a float has an end
        return max(self._seconds, min(grown, owned_seconds, LONGEST_SECONDS)) * _jitter()

    def _waiting(self, key: str, now: float) -> _Waiting:
        if (waiting := self._by_key.get(key)) is None:
            if len(self._by_key) >= self._max_keys:
                self._by_key = {key: each for key, each in self._by_key.items() if each.last_due > now}
                self._max_keys = max(MAX_KEYS, 2 * len(self._by_key))
            waiting = self._by_key[key] = _Waiting()
        return waiting


def _note_owner(waiting: _Waiting, owner: str | None, now: float) -> None:
    if owner is None or owner == waiting.owner:
        return
    if waiting.owner is not None:
        waiting.owner_since = now
    waiting.owner = owner


def _jitter() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)
