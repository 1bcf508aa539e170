"""What this process knows of the locks that it wants, so that a crowd of its tasks costs the server little.

One process is one contender: those of its tasks that want one lock ask for it one after another, and while the lock
is held here they are refused without asking at all. A refusal from the server is remembered for about a second
(jittered, so that processes do not look again together), with who holds it and when to come again; so is an answer
that did not come. What a lock of this process gives back ends the refusals of its key.

Memory only ever refuses. That a lock is free is for the store to say.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock
from diracx.tasks.plumbing.exceptions import ServerError, UnableToAcquireLockError
from diracx.tasks.plumbing.locks import BaseLock, Capacity, Hold, Holder, LockStore

_MOMENT: Final = 1.0
_MANY: Final = 1_000


@dataclass(slots=True)
class _Refusal:
    """One that is repeated from memory."""

    error: UnableToAcquireLockError | ServerError
    until: float
    again_at: float | None

    def repeated(self, now: float) -> UnableToAcquireLockError | ServerError:
        error = self.error
        if not isinstance(error, UnableToAcquireLockError):
            return error.with_traceback(None)
        again = None if self.again_at is None else timedelta(seconds=max(0.0, self.again_at - now))
        return UnableToAcquireLockError(error.key, error.holder, again, pace=error.pace, reason=error.reason)


@dataclass(slots=True)
class _Contention:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    """Tasks that hold it or wait for their turn."""
    holder: Holder | None = None
    refusal: _Refusal | None = None


class Contentions:
    """The contentions of one process.

    Args:
        clock: Of how long something is remembered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_key: dict[str, dict[str, _Contention]] = {}
        self._many = _MANY

    async def take(self, lock: BaseLock, store: LockStore, holder: Holder) -> Hold:
        """Take `lock` from `store`, when it is our turn and nothing speaks against it.

        Raises:
            UnableToAcquireLockError: It is held; the store was not asked if that was known.
            ServerError: The store did not answer, now or a moment ago.
        """
        contention = self._of(lock)
        contention.users += 1
        try:
            if lock.capacity is Capacity.ANY:
                return await self._ask(contention, lock, store, holder)
            async with contention.turn:
                hold = await self._ask(contention, lock, store, holder)
                contention.holder = holder
                return hold
        except BaseException:
            contention.users -= 1
            raise

    async def give_back(self, lock: BaseLock, returned: Callable[[], Awaitable[None]]) -> None:
        """Await `returned`, which gives the lock back; who wants it here waits meanwhile."""
        contention = self._of(lock)
        try:
            if lock.capacity is Capacity.ANY:
                await returned()
                return
            async with contention.turn:
                try:
                    await returned()
                finally:
                    contention.holder = None
        finally:
            contention.users -= 1
            self._given_back(lock)

    def _given_back(self, lock: BaseLock) -> None:
        siblings = self._by_key[lock.key]
        if lock.gives_back:
            for sibling in siblings.values():
                sibling.refusal = None
        if not any(sibling.users or sibling.refusal for sibling in siblings.values()):
            del self._by_key[lock.key]

    def _of(self, lock: BaseLock) -> _Contention:
        if (siblings := self._by_key.get(lock.key)) is None:
            if len(self._by_key) >= self._many:
                self._tidy()
            siblings = self._by_key[lock.key] = {}
        if (contention := siblings.get(lock.contention)) is None:
            contention = siblings[lock.contention] = _Contention()
        return contention

    async def _ask(self, contention: _Contention, lock: BaseLock, store: LockStore, holder: Holder) -> Hold:
        if lock.capacity is Capacity.ONE and contention.holder is not None:
            raise UnableToAcquireLockError(lock.key, str(contention.holder))
        if contention.refusal is not None:
            now = self._clock()
            if now < contention.refusal.until:
                raise contention.refusal.repeated(now)
            contention.refusal = None
        try:
            return await lock.acquire(store, holder)
        except (UnableToAcquireLockError, ServerError) as error:
            contention.refusal = self._remembered(error)
            raise

    def _remembered(self, error: UnableToAcquireLockError | ServerError) -> _Refusal:
        now = self._clock()
        moment = _MOMENT * random.uniform(0.5, 1.5)
        if isinstance(error, UnableToAcquireLockError) and error.retry_after is not None:
            seconds = error.retry_after.total_seconds()
            return _Refusal(error, now + min(moment, seconds), now + seconds)
        return _Refusal(error, now + moment, None)

    def _tidy(self) -> None:
        """Forget what nobody here uses and whose refusals are over."""
        now = self._clock()
        for key, contentions in list(self._by_key.items()):
            if all(c.users == 0 and (c.refusal is None or c.refusal.until <= now) for c in contentions.values()):
                del self._by_key[key]
        self._many = max(_MANY, 2 * len(self._by_key))
