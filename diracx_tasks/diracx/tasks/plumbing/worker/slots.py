"""How many tasks a worker executes at once, and when it makes sense to ask for more."""

from __future__ import annotations

import asyncio
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime

_LINGER: Final = 0.01


class Slots:
    """The slots of one worker.

    Refilling one slot at a time would cost a round trip for each task; waiting for half of them to be free costs one
    for half of them. But a slot must not stay empty behind a long task, so after 10 ms any free slot is enough.
    """

    def __init__(self, total: int, clock: Clock = boottime) -> None:
        if total < 1:
            raise ValueError(f"a worker needs at least one slot, not {total}")
        self.total = total
        self.free = total
        self.busy_seconds = 0.0
        """How long slots were in use until `changed`, all together."""
        self.changed = clock()
        """When a slot was last taken or freed, on the clock."""
        self._clock = clock
        self._enough = max(1, total // 2)
        self._room: asyncio.Future[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self.total - self.free

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.free <= 0:
            return False
        self._account()
        self.free -= 1
        return True

    def give_back(self) -> None:
        """Free a slot."""
        self._account()
        self.free += 1
        if self._room is None:
            return
        if self.free >= self._enough:
            self.wake()
        elif self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self.wake)

    def _account(self) -> None:
        now = self._clock()
        self.busy_seconds += (self.total - self.free) * (now - self.changed)
        self.changed = now

    def wake(self) -> None:
        """End a `room` in progress."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def room(self) -> None:
        """Wait until it makes sense to ask for more: half of the slots are free, or some have been for 10 ms."""
        if self.free >= self._enough:
            return
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        if self.free > 0:
            self._linger = loop.call_later(_LINGER, self.wake)
        try:
            await self._room
        finally:
            self._room = None
