"""How many tasks a worker executes at once, and when it is worth pulling more."""

from __future__ import annotations

import asyncio
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime

REFILL_DELAY_SECONDS: Final = 0.01

MIN_AT_ONCE: Final = 32
"""A round trip takes as long as so many no-op tasks: to ask for fewer saves no time."""


class Slots:
    """The slots of one worker.

    It is worth pulling when half of the slots are free: a pull for each free slot would cost a round trip for each
    task. But a slot must not stay empty behind a long task, so 10 ms after the first one was freed any free slot is
    enough.
    """

    def __init__(self, total: int, clock: Clock = boottime) -> None:
        if total < 1:
            raise ValueError(f"a worker needs at least one slot, not {total}")
        self.total = total
        self.free = total
        self.busy_seconds = 0.0
        """How long slots were in use until `changed_at`, summed over all slots."""
        self.changed_at = clock()
        """When a slot was last taken or released, on the clock."""
        self._clock = clock
        self._enough = max(1, total // 2)
        self.at_once = min(total, max(self._enough, MIN_AT_ONCE))
        """The most messages that one pull asks for: with half of many slots, the server has the next ones ready while
        the tasks of these execute."""
        self._room: asyncio.Future[None] | None = None
        self._refill_timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self.total - self.free

    @property
    def wait_for_a_pull(self) -> bool:
        """Whether messages that were just taken are to wait until the pull for other slots has left."""
        return self.free > 0 and self.at_once < self.total

    def take(self) -> bool:
        """Take a slot. Returns False when none is free."""
        if self.free <= 0:
            return False
        now = self._clock()
        self.busy_seconds += (self.total - self.free) * (now - self.changed_at)
        self.changed_at = now
        self.free -= 1
        return True

    def release(self) -> None:
        """Free a slot, and end a `wait_for_room` in progress: at once if half of them are free, else within 10 ms."""
        now = self._clock()
        self.busy_seconds += (self.total - self.free) * (now - self.changed_at)
        self.changed_at = now
        self.free += 1
        if self._room is None:
            return
        if self.free >= self._enough:
            self.wake()
        elif self._refill_timer is None:
            self._refill_timer = asyncio.get_running_loop().call_later(REFILL_DELAY_SECONDS, self.wake)

    def wake(self) -> None:
        """End a `wait_for_room` in progress."""
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def wait_for_room(self) -> None:
        """Wait until it is worth pulling: half of the slots are free, or some slot has been free for 10 ms."""
        if self.free >= self._enough:
            return
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        if self.free > 0:
            self._refill_timer = loop.call_later(REFILL_DELAY_SECONDS, self.wake)
        try:
            await self._room
        finally:
            self._room = None
