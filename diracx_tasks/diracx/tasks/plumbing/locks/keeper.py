"""The keeper holds all locks of one execution, and renews them while the task runs.

Order:

* Locks are taken by `BaseLock.order`, then by key. So two tasks that want the same locks cannot wait for each other.
* Rate limiters come last, so that no admission is spent on a task whose other locks are busy.
* Locks are released in reverse, also on failure.

Deadlines are checked twice:

* After the last lock was taken. Only then did the execution hold all of its locks at one time. The fencing token and
  the readers-writer lock rest on that.
* After the execution has ended, its dependencies closed and its transactions committed.
  - If no deadline has passed, all of its work lay within its locks, whatever happens before the settlement.
  - If a deadline has passed, the outcome is void, even if the watchdog has not noticed yet: a process that was stopped
    comes here first. A task whose lock lapsed is never settled as done.
  - A loss that is reported later, while locks are released, is void: it neither cancels nor changes the outcome.

Where nothing but an ack follows a success, it does not wait until the locks are released. The request leaves first, and
a release that fails is logged as ever. Other tasks of this process that want the lock wait for the answer.

A cancellation interrupts neither taking nor releasing: the answer under way is awaited, then the lock is released.

What a crash leaves behind: the keys of the locks, until they expire.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from diracx.tasks.plumbing.background import (
    ChildTasks,
    Continuations,
    OnEnd,
    in_background,
    uncancelled,
    uncancelled_here,
)
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import BackgroundEndedError, LockLostError, UnableToAcquireLockError, shown
from diracx.tasks.plumbing.locks import (
    AcquiredLock,
    BaseLimiter,
    BaseLock,
    ConcurrencyLimiter,
    CountingLimiter,
    ExclusiveRWLock,
    FencingToken,
    LockOwner,
    LockStore,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.locks.arbiter import LocalLockArbiter
from diracx.tasks.plumbing.locks.watchdog import Watchdog

logger = logging.getLogger("diracx.tasks.locks")

RELEASE_SECONDS: Final = 2.0
"""The time that what still runs of executions that have ended has to end, before the keeper does."""

_OURS: Final = frozenset(
    {
        MutexLock.acquire,
        ExclusiveRWLock.acquire,
        SharedRWLock.acquire,
        ConcurrencyLimiter.acquire,
        RateLimiter.acquire,
    }
)

OnLost = Callable[[], object]


class HeldLocks:
    """The locks of one execution."""

    __slots__ = ("_clock", "_on_lost", "acquired", "begun", "end", "ended", "locks", "lost", "ours")

    def __init__(self, on_lost: OnLost, clock: Clock) -> None:
        self._clock = clock
        self._on_lost = on_lost
        self.begun = False
        """Whether the execution has begun."""
        self.ended = False
        """Whether the block has ended, or was never entered. A later loss is void."""
        self.end: Callable[[], Coroutine[Any, Any, None]] | None = None
        """See `release_after`."""
        self.locks: list[BaseLock] = []
        """The locks, in the order in which they were taken."""
        self.acquired: list[AcquiredLock] = []
        """The acquisition of each of `locks`."""
        self.ours = True
        """Whether no lock is an author's own, which may use what `uncancelled_here` forbids."""
        self.lost: LockLostError | None = None
        """The first lock that was lost. If there is one, the execution must not count as done."""

    @property
    def token(self) -> FencingToken | None:
        """The fencing token; None without locks. `locks.fencing` derives why it is the highest revision."""
        return FencingToken(max([acquired.token for acquired in self.acquired])) if self.acquired else None

    def check(self) -> LockLostError | None:
        """Compare the deadlines with the clock and return the first loss. The watchdog may not have noticed it yet."""
        now = self._clock()
        for acquired in self.acquired:
            if self.lost is None and now >= acquired.deadline:
                self.lost = LockLostError(acquired.key, "its deadline passed")
        return self.lost

    def release_after(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Hold the locks on after the block, until `end` returns: something of the execution still runs."""
        self.end = end

    def lose(self, error: LockLostError) -> None:
        """Record the first loss and cancel the execution, unless it has ended."""
        if self.lost is None and (not self.ended or self.end is not None):
            self.lost = error
            logger.warning("%s; its task is cancelled", error)
            self._on_lost()


class LockKeeper:
    """Takes locks for executions, and renews them. One for each process.

        async with LockKeeper(store) as keeper:
            async with keeper.hold(task.execution_locks, owner, on_lost) as held:
                ...

    Locks are renewed within the outer block only. If their renewal ends before it, each of them is lost at once, and a
    `BackgroundEndedError` is raised at the end of the block.

    Args:
        store: Holds the keys of the locks.
        clock: Measures the deadlines.
        on_end: Called when the renewal of the locks ends before the outer block. It should end the process in order.
    """

    def __init__(self, store: LockStore, clock: Clock = boottime, *, on_end: OnEnd | None = None) -> None:
        self._store = store
        self._on_end = on_end
        self._clock = clock
        self._watchdog = Watchdog(clock)
        self._arbiter = LocalLockArbiter(clock)
        self._renewing: AbstractAsyncContextManager[None] | None = None
        self._releases = ChildTasks()
        """Those that wait until nothing of an execution runs any more."""
        self._behind = Continuations()
        """Those whose tasks are settled meanwhile."""

    async def __aenter__(self) -> Self:
        self._renewing = in_background(self._renewal_ended, lock_renewal=self._watchdog.run())
        await self._renewing.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the watchdog. An error that ended it before is raised or logged, as `in_background` says.

        Locks of what still runs after `RELEASE_SECONDS` are not released: they expire.
        """
        await self._releases.end(RELEASE_SECONDS)
        await self._behind.end(RELEASE_SECONDS)
        renewing, self._renewing = self._renewing, None
        assert renewing is not None
        await renewing.__aexit__(kind, error, traceback)

    def _renewal_ended(self, error: BackgroundEndedError) -> None:
        try:
            self._watchdog.lose_all(str(error))
        finally:
            if self._on_end is not None:
                self._on_end(error)

    @asynccontextmanager
    async def hold(self, locks: Iterable[BaseLock], owner: LockOwner, on_lost: OnLost) -> AsyncIterator[HeldLocks]:
        """Hold all locks, or none, for the block.

        Args:
            locks: The locks, in any order. `in_order` sorts them and drops those that need not be taken.
            owner: The value of their keys.
            on_lost: Called when a lock is lost before the block has ended. It should cancel the execution.

        Raises:
            UnableToAcquireLockError: Somebody else holds one of the locks. The others are free again.
            ServerError: The store did not answer.
        """
        held = await self.take(locks, owner, on_lost)
        try:
            yield held
            held.check()
        finally:
            await self.release(held)

    async def take(self, locks: Iterable[BaseLock], owner: LockOwner, on_lost: OnLost) -> HeldLocks:
        """Take all locks, or none; as `hold`, whose block is then up to the caller: it calls `check` and `release`."""
        held = HeldLocks(on_lost, self._clock)
        try:
            for lock in in_order(locks):
                held.ours = held.ours and type(lock).acquire in _OURS
                await (uncancelled_here if held.ours else uncancelled)(self._take(lock, owner, held))
            if (lapsed := held.check()) is not None:
                raise UnableToAcquireLockError(lapsed.key, reason=f"{lapsed} while others were taken")
        except BaseException as error:
            await self.release(held)
            if isinstance(error, UnableToAcquireLockError):
                await asyncio.sleep(0)  # whoever tries again at once must not keep the loop from whoever has the lock
            raise
        held.begun = True
        return held

    async def release(self, held: HeldLocks, *, behind: bool = False) -> None:
        """Release what was taken, now or after what still runs.

        Args:
            behind: Whether to return once the first request was sent. What the caller sends next leaves after it.
        """
        held.ended = True
        if held.acquired and held.end is not None:
            self._releases.start(self._release_later(held, held.end()), "locks of what still runs")
        elif held.acquired and behind and held.ours:
            self._behind.begin(self._release_all(held))
        elif held.acquired:
            await (uncancelled_here if held.ours else uncancelled)(self._release_all(held))

    async def _release_later(self, held: HeldLocks, end: Coroutine[Any, Any, None]) -> None:
        await end
        await self._release_all(held)

    async def renew_due(self, store: LockStore) -> None:
        """Renew the locks that are due, once, through `store`. For another thread, while the keeper's loop is held up.

        A renewal that fails is logged, and is due again. A loss is reported by the keeper's own loop, once it goes on.
        """
        await self._watchdog.renew_due(store)

    async def _take(self, lock: BaseLock, owner: LockOwner, held: HeldLocks) -> None:
        acquired = await self._arbiter.take(lock, self._store, owner)
        held.locks.append(lock)
        held.acquired.append(acquired)
        self._watchdog.watch(acquired, held.lose)

    async def _release_all(self, held: HeldLocks) -> None:
        for lock, acquired in zip(reversed(held.locks), reversed(held.acquired), strict=True):
            await self._arbiter.give_back(lock, partial(self._release, acquired, begun=held.begun))

    async def _release(self, acquired: AcquiredLock, *, begun: bool) -> None:
        """Release one lock. Whatever fails, also in a lock of an author, keeps no other lock from its release."""
        try:
            if await self._watchdog.unwatch(acquired) and self._clock() < acquired.deadline:
                await (acquired.release() if begun else acquired.abandon())
        except (Exception, asyncio.CancelledError) as error:  # the key expires, and the outcome of the task stands
            reason = str(error) or repr(error)
            seconds = acquired.ttl.total_seconds()
            logger.warning("releasing %s: %s; it expires within %g s", shown(str(acquired.key)), reason, seconds)


def in_order(locks: Iterable[BaseLock]) -> list[BaseLock]:
    """Sort locks into the order of acquisition, and drop those that need not be taken.

    Dropped are duplicates, a reader beside the writer of the same key, and limiters without a limit.
    """
    if len(given := list(locks)) == 1 and not isinstance(given[0], CountingLimiter):
        return given
    wanted: dict[str, BaseLock] = {}
    limiters: list[BaseLock] = []
    for lock in given:
        if not isinstance(lock, BaseLimiter):
            wanted[lock.contention_key] = lock
        elif not (isinstance(lock, CountingLimiter) and lock.limit is None):
            limiters.append(lock)
    written = {lock.key for lock in wanted.values() if isinstance(lock, ExclusiveRWLock)}
    structural = [lock for lock in wanted.values() if not (isinstance(lock, SharedRWLock) and lock.key in written)]
    return sorted(structural + limiters, key=lambda lock: (lock.order, lock.key))
