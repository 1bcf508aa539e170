"""Which locks may a task take, and how does its process hold them while the task executes?

Author's locks: `base`. The inequalities that make them safe: `acquired`, `readers_writer`, `rate`, `fencing`, `keeper`.
"""

from diracx.tasks.plumbing.key_value_store import Entry, LockStore, RevisionConflictError, StoredKey
from diracx.tasks.plumbing.locks.acquired import SAFETY_MARGIN, AcquiredKey, AcquiredLock, LockOwner
from diracx.tasks.plumbing.locks.base import (
    DEFAULT_TTL_MS,
    BaseLimiter,
    BaseLock,
    Capacity,
    CountingLimiter,
    MutexLock,
)
from diracx.tasks.plumbing.locks.concurrency import ConcurrencyLimiter
from diracx.tasks.plumbing.locks.fencing import FencingToken
from diracx.tasks.plumbing.locks.rate import RateLimiter
from diracx.tasks.plumbing.locks.readers_writer import ExclusiveRWLock, SharedRWLock

__all__ = [
    "DEFAULT_TTL_MS",
    "SAFETY_MARGIN",
    "AcquiredKey",
    "AcquiredLock",
    "BaseLimiter",
    "BaseLock",
    "Capacity",
    "ConcurrencyLimiter",
    "CountingLimiter",
    "Entry",
    "ExclusiveRWLock",
    "FencingToken",
    "LockOwner",
    "LockStore",
    "MutexLock",
    "RateLimiter",
    "RevisionConflictError",
    "SharedRWLock",
    "StoredKey",
]
