"""Holding all locks of one execution.

They are taken in one fixed order (`BaseLock.order`, then key), so that two tasks that want the same ones cannot wait
for each other, and the rate limiter at the very end, so that no admission is spent on a task whose other locks are
busy. They are given back in reverse, also on failure. When all are taken their deadlines are looked at once more: only
then were they all ours at one time, which is what the fencing token and the readers-writer lock rest on.

**Lapsed is never done.** The deadlines are looked at again when the execution has ended, its dependencies closed and
its transactions committed. If none has passed by then, all of its work lay within its locks, whatever happens later.
So there is nothing to fear from the time between that look and the settlement: a process that is stopped there has
done its work under the lock, and may say so. If one has passed, the outcome is void, even if the watchdog has not
noticed yet: a process that was stopped comes here first.

Neither taking nor giving back can be torn by a cancellation: a lock whose answer is under way is awaited and then
undone.

What a crash leaves behind: the keys of the locks, until they expire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import LockLostError, UnableToAcquireLockError
from diracx.tasks.plumbing.locks import (
    BaseLimiter,
    BaseLock,
    CountingLimiter,
    ExclusiveRWLock,
    FencingToken,
    Hold,
    Holder,
    LockStore,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.contention import Contentions
from diracx.tasks.plumbing.locks.watchdog import Watchdog

logger = logging.getLogger("diracx.tasks.locks")

OnLost = Callable[[], object]


class Holding:
    """The locks of one execution."""

    __slots__ = ("_clock", "_on_lost", "begun", "holds", "locks", "lost")

    def __init__(self, on_lost: OnLost, clock: Clock) -> None:
        self._clock = clock
        self._on_lost = on_lost
        self.begun = False
        """Whether something was done under them."""
        self.locks: list[BaseLock] = []
        """In the order in which they were taken."""
        self.holds: list[Hold] = []
        """One for each of them."""
        self.lost: LockLostError | None = None
        """The first lock that was lost; the execution under it must not count as done."""

    @property
    def token(self) -> FencingToken | None:
        """The fencing token; None without locks. See `locks.fencing` for why it is the highest."""
        return FencingToken(max(hold.token for hold in self.holds)) if self.holds else None

    def check(self) -> LockLostError | None:
        """Look at the deadlines now: a process that was stopped may get here before its watchdog."""
        now = self._clock()
        for hold in self.holds:
            if self.lost is None and now >= hold.deadline:
                self.lost = LockLostError(hold.key, "its deadline passed")
        return self.lost

    def lose(self, error: LockLostError) -> None:
        """Note the loss and tell the execution, once."""
        if self.lost is None:
            self.lost = error
            logger.warning("%s; its task is cancelled", error)
            self._on_lost()


class LockKeeper:
    """Takes locks for executions, and renews them while they are held. One for each process.

    Args:
        store: Where locks are.
        clock: Of deadlines.

    `run` must be running while anything is held.
    """

    def __init__(self, store: LockStore, clock: Clock = boottime) -> None:
        self._store = store
        self._clock = clock
        self._watchdog = Watchdog(clock)
        self._contentions = Contentions(clock)

    @asynccontextmanager
    async def holding(self, locks: Iterable[BaseLock], holder: Holder, on_lost: OnLost) -> AsyncIterator[Holding]:
        """Hold all `locks`, or none. See `in_order` for what is left out.

        Args:
            on_lost: Called when a lock is lost; it should cancel the execution.

        Raises:
            UnableToAcquireLockError: One is held by somebody else; those taken before it were given back.
        """
        holding = Holding(on_lost, self._clock)
        try:
            for lock in in_order(locks):
                await _uncancelled(self._take(lock, holder, holding))
            if (lapsed := holding.check()) is not None:
                raise UnableToAcquireLockError(lapsed.key, reason=f"{lapsed} while others were taken")
            holding.begun = True
            yield holding
            holding.check()
        finally:
            if holding.holds:
                await _uncancelled(self._give_back_all(holding))

    async def run(self) -> None:
        """Watch until cancelled."""
        await self._watchdog.run()

    async def _take(self, lock: BaseLock, holder: Holder, holding: Holding) -> None:
        hold = await self._contentions.take(lock, self._store, holder)
        holding.locks.append(lock)
        holding.holds.append(hold)
        self._watchdog.watch(hold, holding.lose)

    async def _give_back_all(self, holding: Holding) -> None:
        for lock, hold in zip(reversed(holding.locks), reversed(holding.holds), strict=True):
            await self._contentions.give_back(lock, partial(self._give_back, hold, begun=holding.begun))

    async def _give_back(self, hold: Hold, *, begun: bool) -> None:
        if not await self._watchdog.unwatch(hold) or self._clock() >= hold.deadline:
            return
        try:
            await (hold.release() if begun else hold.abandon())
        except Exception as error:  # it expires by itself; the outcome of the task stands
            logger.warning("releasing %s: %s; it expires within %s", hold.key, error, hold.ttl)


def in_order(locks: Iterable[BaseLock]) -> list[BaseLock]:
    """The locks in the order in which they are taken, without what is not taken at all.

    That is a lock given twice, a reader beside its own writer, and a limiter without a limit.
    """
    wanted: dict[str, BaseLock] = {}
    limiters: list[BaseLock] = []
    for lock in locks:
        if not isinstance(lock, BaseLimiter):
            wanted[lock.contention] = lock
        elif not (isinstance(lock, CountingLimiter) and lock.limit is None):
            limiters.append(lock)
    written = {lock.key for lock in wanted.values() if isinstance(lock, ExclusiveRWLock)}
    structural = [lock for lock in wanted.values() if not (isinstance(lock, SharedRWLock) and lock.key in written)]
    return sorted(structural + limiters, key=lambda lock: (lock.order, lock.key))


async def _uncancelled(coroutine: Coroutine[Any, Any, None]) -> None:
    """Carry `coroutine` to its end even when cancelled meanwhile; the cancellation comes after it."""
    work = asyncio.create_task(coroutine)
    cancelled: asyncio.CancelledError | None = None
    try:
        # The quick way; `wait` costs three times as much.
        return await asyncio.shield(work)
    except asyncio.CancelledError as error:
        cancelled = error
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:  # a stop, a lost lock and a timeout may all cancel
            cancelled = error
    raise cancelled from (None if work.cancelled() else work.exception())
