"""Locks: what a task holds while it executes.

A lock is a value. It knows its key and how to take it from a `LockStore`; it keeps no state of its own, so one
instance may be taken many times. What was taken is a `Hold`.

    MutexLock            one holder                          mutex.<obj>.<key>
    ExclusiveRWLock      one writer and no reader            rw.<obj>.<key>./writer
    SharedRWLock         any number of readers, no writer    rw.<obj>.<key>./readers.<owner>
    ConcurrencyLimiter   at most `limit` holders             conc.<obj>.<key>./slots.<number>
    RateLimiter          at most `limit` in any window       rate.<obj>.<key>./slots.<number>

Each rests on an inequality, which its module derives: `hold` for the deadline, `readers_writer`, `rate`, `fencing`.
All of them take a lock now or not at all; waiting is the queue's business. `execution.holding` takes all locks of a
task, remembers what is busy and renews what is held.
"""

from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError, Standing
from diracx.tasks.plumbing.locks.base import DEFAULT_TTL_MS, BaseLimiter, BaseLock, Capacity, CountingLimiter
from diracx.tasks.plumbing.locks.concurrency import ConcurrencyLimiter
from diracx.tasks.plumbing.locks.fencing import FencingToken
from diracx.tasks.plumbing.locks.hold import MARGIN, Hold, KeyHold
from diracx.tasks.plumbing.locks.holder import Holder
from diracx.tasks.plumbing.locks.mutex import MutexLock
from diracx.tasks.plumbing.locks.rate import RateLimiter
from diracx.tasks.plumbing.locks.readers_writer import ExclusiveRWLock, SharedRWLock

__all__ = [
    "DEFAULT_TTL_MS",
    "MARGIN",
    "BaseLimiter",
    "BaseLock",
    "Capacity",
    "ConcurrencyLimiter",
    "CountingLimiter",
    "Entry",
    "ExclusiveRWLock",
    "FencingToken",
    "Hold",
    "Holder",
    "KeyHold",
    "LockStore",
    "MutexLock",
    "RateLimiter",
    "RevisionConflictError",
    "SharedRWLock",
    "Standing",
]
