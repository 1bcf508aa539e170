"""The watchdog renews every lock that a process holds.

* It checks all locks four times a second.
* A lock is renewed a third of its TTL after the last renewal. Renewals that are due run concurrently.
* A renewal that fails is tried again at each check.
* A lock past its deadline is lost. Its `on_lost` is called, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from diracx.tasks.plumbing.clock import Clock
from diracx.tasks.plumbing.exceptions import LockLostError
from diracx.tasks.plumbing.locks.acquired import SAFETY_MARGIN, AcquiredLock

logger = logging.getLogger("diracx.tasks.locks")

_CHECK_SECONDS: Final = 0.25

OnLost = Callable[[LockLostError], object]


class Watchdog:
    """Renews the locks that it watches, while `run` runs.

    Args:
        clock: Measures the deadlines.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[AcquiredLock, OnLost] = {}
        self._renewing: dict[AcquiredLock, asyncio.Task[None]] = {}
        self._failing: set[AcquiredLock] = set()
        """Locks whose last renewal failed. Only the first failure in a row is a warning."""
        self._not_empty = asyncio.Event()

    def watch(self, acquired: AcquiredLock, on_lost: OnLost) -> None:
        """Renew `acquired` from now on. Call `on_lost` if that fails."""
        self._watched[acquired] = on_lost
        self._not_empty.set()

    async def unwatch(self, acquired: AcquiredLock) -> bool:
        """Stop watching, after a renewal under way has ended. False: the lock was lost."""
        if acquired in self._watched and (renewal := self._renewing.get(acquired)) is not None:
            await asyncio.wait([renewal])
        return self._forget(acquired) is not None

    async def run(self) -> None:
        """Renew until cancelled."""
        try:
            while True:
                await self._not_empty.wait()
                self._check(self._clock())
                await asyncio.sleep(_CHECK_SECONDS)
        finally:
            for renewal in self._renewing.values():
                renewal.cancel()

    def _check(self, now: float) -> None:
        for acquired in list(self._watched):
            if now >= acquired.deadline:
                self._lose(acquired, LockLostError(acquired.key, "its deadline passed"))
            elif now >= _renewal_due(acquired) and acquired not in self._renewing:
                self._renewing[acquired] = asyncio.create_task(self._renew(acquired), name=f"renew {acquired.key}")

    async def _renew(self, acquired: AcquiredLock) -> None:
        try:
            await acquired.renew()
            self._failing.discard(acquired)
        except LockLostError as error:
            self._lose(acquired, error)
        except Exception as error:  # the server may answer again before the deadline; past it, the lock is lost
            level = logging.DEBUG if acquired in self._failing else logging.WARNING
            logger.log(level, "renewing %s: %s", acquired.key, error)
            self._failing.add(acquired)
        finally:
            del self._renewing[acquired]

    def _lose(self, acquired: AcquiredLock, error: LockLostError) -> None:
        if (on_lost := self._forget(acquired)) is not None:
            on_lost(error)

    def _forget(self, acquired: AcquiredLock) -> OnLost | None:
        on_lost = self._watched.pop(acquired, None)
        self._failing.discard(acquired)
        if not self._watched:
            self._not_empty.clear()
        return on_lost


def _renewal_due(acquired: AcquiredLock) -> float:
    """A third of the TTL after the last renewal was sent, which was at `deadline - ttl + SAFETY_MARGIN`."""
    return acquired.deadline + (SAFETY_MARGIN - acquired.ttl * 2 / 3).total_seconds()
