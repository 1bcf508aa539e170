"""Who leads: a key with a life of its own, taken by compare-and-set.

A leader renews the key at a third of its `ttl`; the server drops it `ttl` after the last renewal, to the second. A
standby tries to create it every `POLL`. So a leader that vanished is replaced within

    takeover = ttl + EXPIRY + POLL

after its last renewal, where `EXPIRY` is what the server takes to notice (under a second was seen). One that stops in
order deletes its own revision, and is replaced within `POLL`. What was promised to be with the server must bridge a
takeover, with room for a second one that follows at once:

    horizon >= 2 x takeover

Nothing rests on there being one leader. One that was stopped for longer than its lease still believes in it for a
moment when it goes on; what it writes then is refused by the compare-and-set on each state.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Final

from diracx.tasks.plumbing.lock_registry import TASK
from diracx.tasks.plumbing.locks import AcquiredKey, AcquiredLock, LockOwner, LockStore, MutexLock

POLL: Final = timedelta(seconds=0.5)
EXPIRY: Final = timedelta(seconds=1.5)
SHORTEST_TAKEOVER: Final = timedelta(seconds=5)
DEFAULT_TAKEOVER: Final = timedelta(seconds=12)


class LeaderLock(MutexLock):
    """The leadership of the schedulers of one mesh."""

    kind: ClassVar[str] = "leader"

    def __init__(self, ttl: timedelta) -> None:
        super().__init__(TASK, "scheduler", ttl_ms=int(ttl / timedelta(milliseconds=1)))

    async def acquire(self, store: LockStore, owner: LockOwner) -> AcquiredLock:
        """Become the leader, or say who is."""
        return await AcquiredKey.create(store, self.key, owner, self.ttl)


def ttl_for(takeover: timedelta) -> timedelta:
    """The life of the key, whole seconds, so that a vanished leader is replaced within `takeover`.

    Raises:
        ValueError: `takeover` is shorter than 5 s.
    """
    if takeover < SHORTEST_TAKEOVER:
        raise ValueError(f"a takeover takes {SHORTEST_TAKEOVER.total_seconds():g} s or more, not {takeover}")
    return timedelta(seconds=(takeover - EXPIRY - POLL) // timedelta(seconds=1))
