"""The watchdog renews every lock that a process holds.

* It checks all locks four times a second.
* A lock is renewed a third of its TTL after the last renewal. Renewals that are due run concurrently.
* A renewal that fails is tried again at each check.
* A lock past its deadline is lost. Its `on_lost` is called, once.
* If the watchdog itself ends, `lose_all` reports every lock as lost: nobody would notice a deadline any more.

While the event loop of the watchdog is held up, another thread keeps the locks with `renew_due`. It only renews. The
watchdog itself notices a loss once its loop goes on: the deadline has not moved, so it renews the lock or gives it up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from typing import Final

from diracx.tasks.plumbing.background import ChildTasks
from diracx.tasks.plumbing.clock import Clock
from diracx.tasks.plumbing.exceptions import LockLostError, ServerError, shown
from diracx.tasks.plumbing.key_value_store import LockStore
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
        self._renewals = ChildTasks()
        self._renewing_elsewhere: dict[AcquiredLock, concurrent.futures.Future[None]] = {}
        """The renewals of `renew_due`."""
        self._mutex = threading.Lock()
        """No renewal of `renew_due` begins once a lock is not watched any more."""
        self._failing: set[AcquiredLock] = set()
        """Locks whose last renewal failed. Only the first failure in a row is a warning."""
        self._not_empty = asyncio.Event()
        self._ended: str | None = None
        """Why no lock is renewed any more; None while `lose_all` was not called."""

    def watch(self, acquired: AcquiredLock, on_lost: OnLost) -> None:
        """Renew `acquired` from now on. Call `on_lost` if that fails."""
        self._watched[acquired] = on_lost
        self._not_empty.set()
        if self._ended is not None:
            on_lost(LockLostError(acquired.key, self._ended))

    async def unwatch(self, acquired: AcquiredLock) -> bool:
        """Stop watching, after the renewals under way have ended. False: the lock was lost."""
        while True:
            with self._mutex:
                known = acquired in self._watched
                if not known or not (acquired in self._renewing or acquired in self._renewing_elsewhere):
                    return self._forget(acquired) is not None
                under_way = self._renewals_of(acquired)
            await asyncio.wait(under_way)

    def _renewals_of(self, acquired: AcquiredLock) -> list[asyncio.Future[None]]:
        here, elsewhere = self._renewing.get(acquired), self._renewing_elsewhere.get(acquired)
        return [*([here] if here else []), *([asyncio.wrap_future(elsewhere)] if elsewhere else [])]

    async def renew_due(self, store: LockStore) -> None:
        """Renew the locks that are due, once and concurrently. May run on another thread than `run`.

        A renewal that fails is logged, and is due again.

        Args:
            store: The store to renew through, of this thread.
        """
        await asyncio.gather(*(self._renew_elsewhere(acquired, store) for acquired in list(self._watched)))

    async def _renew_elsewhere(self, acquired: AcquiredLock, store: LockStore) -> None:
        with self._mutex:
            due = _renewal_due(acquired) <= self._clock() < acquired.deadline
            if not due or acquired not in self._watched or acquired in self._renewing_elsewhere:
                return
            ended = self._renewing_elsewhere[acquired] = concurrent.futures.Future()
        try:
            await acquired.renew(store)
        except Exception as error:  # also a loss: `run` notices it
            self._log_failure(acquired, error)
        finally:
            with self._mutex:
                del self._renewing_elsewhere[acquired]
            ended.set_result(None)

    async def run(self) -> None:
        """Renew until cancelled."""
        try:
            while True:
                await self._not_empty.wait()
                self._check(self._clock())
                await asyncio.sleep(_CHECK_SECONDS)
                self._renewals.check()
        finally:
            self._renewals.cancel()

    def lose_all(self, why: str) -> None:
        """Report every lock as lost, now and from now on: `run` has ended.

        Their owners may still release them, since no deadline has passed.
        """
        self._ended = why
        for acquired, on_lost in list(self._watched.items()):
            on_lost(LockLostError(acquired.key, why))

    def _check(self, now: float) -> None:
        for acquired in list(self._watched):
            if now >= acquired.deadline:
                self._lose(acquired, LockLostError(acquired.key, "its deadline passed"))
            elif now >= _renewal_due(acquired) and acquired not in self._renewing:
                self._renewing[acquired] = self._renewals.start(self._renew(acquired), f"renew {acquired.key}")

    async def _renew(self, acquired: AcquiredLock) -> None:
        try:
            await acquired.renew()
            self._failing.discard(acquired)
        except LockLostError as error:
            self._lose(acquired, error)
        except Exception as error:  # the server may answer again before the deadline; past it, the lock is lost
            self._log_failure(acquired, error)
        finally:
            del self._renewing[acquired]

    def _log_failure(self, acquired: AcquiredLock, error: Exception) -> None:
        if acquired in self._watched:  # a loss has a line of its own
            level = logging.DEBUG if acquired in self._failing else logging.WARNING
            unexpected = None if isinstance(error, ServerError) else error  # of a lock of an author
            logger.log(
                level, "renewing %s: %s", shown(str(acquired.key)), str(error) or repr(error), exc_info=unexpected
            )
            self._failing.add(acquired)

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
