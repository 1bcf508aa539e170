"""The one watchdog that keeps every hold of a process alive.

It looks four times a second. It renews a hold after a third of its TTL, all due ones side by side, and tries again at
each look while the server is away. A hold past its deadline is lost: its watcher is told, once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from diracx.tasks.plumbing.clock import Clock
from diracx.tasks.plumbing.exceptions import LockLostError
from diracx.tasks.plumbing.locks import MARGIN, Hold

logger = logging.getLogger("diracx.tasks.locks")

_LOOK: Final = 0.25

OnLost = Callable[[LockLostError], object]


class Watchdog:
    """Renews what it watches, while `run` runs.

    Args:
        clock: Of deadlines.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: dict[Hold, OnLost] = {}
        self._renewing: dict[Hold, asyncio.Task[None]] = {}
        self._failing: set[Hold] = set()
        """Those whose last renewal failed; it is told once until they are renewed."""
        self._some = asyncio.Event()

    def watch(self, hold: Hold, on_lost: OnLost) -> None:
        """Keep `hold` alive; `on_lost` is called if that fails."""
        self._watched[hold] = on_lost
        self._some.set()

    async def unwatch(self, hold: Hold) -> bool:
        """Watch no more; wait for a renewal under way. False when the hold was lost."""
        if hold in self._watched and (renewal := self._renewing.get(hold)) is not None:
            await asyncio.wait([renewal])
        return self._forget(hold) is not None

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._some.wait()
                self._look(self._clock())
                await asyncio.sleep(_LOOK)
        finally:
            for renewal in self._renewing.values():
                renewal.cancel()

    def _look(self, now: float) -> None:
        for hold in list(self._watched):
            if now >= hold.deadline:
                self._lose(hold, LockLostError(hold.key, "its deadline passed"))
            elif now >= _renewal_due(hold) and hold not in self._renewing:
                self._renewing[hold] = asyncio.create_task(self._renew(hold), name=f"renew {hold.key}")

    async def _renew(self, hold: Hold) -> None:
        try:
            await hold.renew()
            self._failing.discard(hold)
        except LockLostError as error:
            self._lose(hold, error)
        except Exception as error:  # the server may answer again before the deadline; past it, the hold is lost
            level = logging.DEBUG if hold in self._failing else logging.WARNING
            logger.log(level, "renewing %s: %s", hold.key, error)
            self._failing.add(hold)
        finally:
            del self._renewing[hold]

    def _lose(self, hold: Hold, error: LockLostError) -> None:
        if (on_lost := self._forget(hold)) is not None:
            on_lost(error)

    def _forget(self, hold: Hold) -> OnLost | None:
        on_lost = self._watched.pop(hold, None)
        self._failing.discard(hold)
        if not self._watched:
            self._some.clear()
        return on_lost


def _renewal_due(hold: Hold) -> float:
    """A third of the TTL after the last store was sent, which is `deadline - ttl + MARGIN`."""
    return hold.deadline + (MARGIN - hold.ttl * 2 / 3).total_seconds()
