"""Each lock against a model: several owners take, renew, release, crash and come back, while time passes.

The store is in memory, on a clock that the test moves; owners go by a clock of the same rate that may be read late.
What an owner believes is what its deadline says, so the rules are checked on the beliefs: never two writers, never a
reader with a writer, never more than the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diracx.tasks.plumbing.exceptions import LockLostError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredKey,
    AcquiredLock,
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.testing.lock_store import InMemoryLockStore
from support.clock import ManualClock
from support.locking import new_owner

T = TypeVar("T")

LIMIT = 3
WINDOW = 4


@dataclass(eq=False)
class Held:
    """An acquired lock that its owner may still trust."""

    lock: BaseLock
    hold: AcquiredLock
    taken_at: float


def revision_of(hold: AcquiredLock) -> int:
    """The revision at which the owner has the key."""
    return hold.revision if isinstance(hold, AcquiredKey) else hold.token


class LockMachine(RuleBasedStateMachine):
    """Owners of one key."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock(1_000.0)
        self.store = InMemoryLockStore(self.clock)
        self.held: list[Held] = []
        self.stale: list[Held] = []
        self.tokens: dict[str, int] = {}
        self.admissions: list[float] = []

    def teardown(self) -> None:
        self.runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; in memory nothing waits."""
        return self.runner.run(coroutine)

    def locks(self) -> list[BaseLock]:
        """The locks to take."""
        raise NotImplementedError

    def may_be_taken(self, lock: BaseLock) -> bool:
        """Whether the model allows the lock, if no mark and no key of a crashed owner blocks it."""
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.choices = self.locks()

    @rule(choice=st.integers(0, 1))
    def take(self, choice: int) -> None:
        lock = self.choices[choice % len(self.choices)]
        allowed = self.may_be_taken(lock)
        try:
            hold = self.run(lock.acquire(self.store, new_owner()))
        except UnableToAcquireLockError:
            return
        assert allowed, f"{lock} was taken beside {self.believed()}"
        assert hold.token > max(self.tokens.values(), default=0), "a token did not rise"
        self.tokens[hold.key] = hold.token
        self.held.append(Held(lock, hold, self.clock.now))
        self.admissions.append(self.clock.now)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        lapsed = self.clock.now >= held.hold.deadline
        try:
            self.run(held.hold.renew())
        except LockLostError:
            assert lapsed, "a lock was lost before its deadline"
            self.held.remove(held)
            self.stale.append(held)
        else:
            assert not lapsed, "a lapsed lock was renewed"

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        self.run(held.hold.release())
        self.held.remove(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """The owner neither renews nor releases any more. It may wake later."""
        held = data.draw(st.sampled_from(self.held))
        self.held.remove(held)
        self.stale.append(held)

    @precondition(lambda self: self.stale)
    @rule(data=st.data(), release=st.booleans())
    def a_stale_owner_wakes(self, data: st.DataObject, release: bool) -> None:
        held = data.draw(st.sampled_from(self.stale))
        if self.clock.now < held.hold.deadline:
            return
        self.stale.remove(held)
        before = self.standing()
        if release:
            self.run(held.hold.release())
        else:
            with suppress(LockLostError):
                self.run(held.hold.renew())
        others = {key: revision for key, revision in before.items() if revision != revision_of(held.hold)}
        assert others.items() <= self.standing().items(), "a stale owner touched what is not its own"

    @rule(seconds=st.floats(0.01, 8))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    def believed(self) -> list[Held]:
        """The locks before their deadlines, of owners alive or crashed."""
        return [held for held in self.held + self.stale if self.clock.now < held.hold.deadline]

    def standing(self) -> dict[str, int]:
        """The keys in the store, with their revisions."""
        keys = self.run(self.store.keys())
        return {key: entry.revision for key in keys if (entry := self.run(self.store.read(key)))}

    @invariant()
    def who_believes_to_hold_has_its_key(self) -> None:
        standing = self.standing()
        assert all(held.hold.key in standing for held in self.believed() if held.lock.frees_on_release)


class MutexMachine(LockMachine):
    """A mutex: one owner at a time."""

    def locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, 7, ttl_ms=5000, clock=self.clock)]

    def may_be_taken(self, lock: BaseLock) -> bool:
        return not self.believed()


class ReadersWriterMachine(LockMachine):
    """A readers-writer lock: readers share, a writer is alone."""

    def locks(self) -> list[BaseLock]:
        return [kind(JOB, 7, ttl_ms=5000, clock=self.clock) for kind in (SharedRWLock, ExclusiveRWLock)]

    def may_be_taken(self, lock: BaseLock) -> bool:
        if isinstance(lock, ExclusiveRWLock):
            return not self.believed()
        return not any(isinstance(held.lock, ExclusiveRWLock) for held in self.believed())


class ConcurrencyMachine(LockMachine):
    """A concurrency limiter: never more owners than the limit."""

    def locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(JOB, 7, limit=LIMIT, ttl_ms=5000, clock=self.clock)]

    def may_be_taken(self, lock: BaseLock) -> bool:
        return len(self.believed()) < LIMIT


class RateMachine(LockMachine):
    """A rate limiter: never more than the limit in any window, wherever it starts."""

    def locks(self) -> list[BaseLock]:
        return [RateLimiter(JOB, 7, limit=LIMIT, window_seconds=WINDOW, clock=self.clock)]

    def may_be_taken(self, lock: BaseLock) -> bool:
        # Half-open: an admission right when a window is over belongs to the next.
        return len([at for at in self.admissions if at > self.clock.now - WINDOW]) < LIMIT


# Many short stories find more than few long ones here.
_SETTINGS = settings(max_examples=30, stateful_step_count=25, deadline=None)
for machine in (MutexMachine, ReadersWriterMachine, ConcurrencyMachine, RateMachine):
    machine.TestCase.settings = _SETTINGS

TestMutex = MutexMachine.TestCase
TestReadersWriter = ReadersWriterMachine.TestCase
TestConcurrency = ConcurrencyMachine.TestCase
TestRate = RateMachine.TestCase
