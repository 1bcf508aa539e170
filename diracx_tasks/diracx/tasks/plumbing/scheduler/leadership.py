"""Which scheduler leads: the one that holds a key with a TTL, taken by compare-and-set.

    standby --creates the key--> leader --stops and deletes its key, or loses it--> standby

A leader renews the key every `ttl / 3`. The server deletes the key `ttl` after the last renewal, in whole seconds.
A standby tries to create the key every `POLL_INTERVAL`. So a leader that vanished is replaced within

    takeover = ttl + EXPIRY_DELAY + POLL_INTERVAL

after its last renewal. `EXPIRY_DELAY` bounds how late the server deletes an expired key (less than a second was
measured). A leader that stops in order deletes its own revision of the key, and is replaced within `POLL_INTERVAL`.

Occurrences are published ahead of time, so that none is missed during a takeover, nor during a second one right after:

    horizon >= 2 x takeover

Correctness does not depend on a single leader. A leader that was suspended for longer than its lease believes for a
moment that it still leads; the compare-and-set on each state refuses its writes.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Final

from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import AcquiredKey, AcquiredLock, LockOwner, LockStore, MutexLock

POLL_INTERVAL: Final = timedelta(seconds=0.5)
EXPIRY_DELAY: Final = timedelta(seconds=1.5)
MIN_TAKEOVER: Final = timedelta(seconds=5)
DEFAULT_TAKEOVER: Final = timedelta(seconds=12)


class LeaderLock(MutexLock):
    """The lock that the leading scheduler of a mesh holds."""

    kind: ClassVar[str] = "leader"

    def __init__(self, ttl: timedelta) -> None:
        super().__init__(TASK, "scheduler", ttl_ms=int(ttl / timedelta(milliseconds=1)))

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Become the leader; if another scheduler leads, the error names it."""
        return await AcquiredKey.create(store, self.key, owner, self.ttl)


def ttl_for(takeover: timedelta) -> timedelta:
    """The TTL of the key, in whole seconds, with which a vanished leader is replaced within `takeover`.

    Raises:
        ValueError: `takeover` is shorter than 5 s.
    """
    if takeover < MIN_TAKEOVER:
        raise ValueError(f"a takeover takes {MIN_TAKEOVER.total_seconds():g} s or more, not {takeover}")
    return timedelta(seconds=(takeover - EXPIRY_DELAY - POLL_INTERVAL) // timedelta(seconds=1))
