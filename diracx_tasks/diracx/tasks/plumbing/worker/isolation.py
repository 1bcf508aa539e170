"""Running a suspect alone in its worker.

A task whose executions keep beginning without ever ending may be killing its workers, and whatever ran beside it
looks guilty, too. So a suspect runs alone: when it kills again, only its own count rises, and its neighbours of
earlier times, run alone in their turn, are cleared by getting done.

While suspects are about, the worker takes nothing new. A suspect waits for what is in hand to end, but not for ever:
then it is given back, uncounted, and another worker may have the quiet that it needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta


class NotAloneError(Exception):
    """The others did not end in time."""


class Solitude:
    """The gate between suspects and everybody else in one worker.

    Args:
        in_hand: How many deliveries the worker has in hand, suspects included.
        on_wanted: Called when a suspect arrives: nothing more should be asked for.
        patience: How long a suspect waits for the others.
    """

    def __init__(self, in_hand: Callable[[], int], on_wanted: Callable[[], object], patience: timedelta) -> None:
        self._in_hand = in_hand
        self._on_wanted = on_wanted
        self._patience = patience.total_seconds()
        self._suspects = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._nobody = asyncio.Event()
        self._nobody.set()

    @property
    def wanted(self) -> bool:
        """Whether a suspect is about: nothing new may be taken."""
        return self._suspects > 0

    async def unwanted(self) -> None:
        """Wait until no suspect is about, or until `wake`."""
        await self._nobody.wait()

    def wake(self) -> None:
        """End an `unwanted` in progress: the worker stops."""
        self._nobody.set()

    def left(self) -> None:
        """Somebody is not in hand any more."""
        self._changed.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the only one that executes until the end of the block.

        Raises:
            NotAloneError: The others did not end in time.
        """
        self._suspects += 1
        self._nobody.clear()
        self._changed.set()
        self._on_wanted()
        try:
            async with self._turn:
                await self._others_ended()
                yield
        finally:
            self._suspects -= 1
            self._changed.set()
            if not self._suspects:
                self._nobody.set()

    async def _others_ended(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                while self._in_hand() > self._suspects:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise NotAloneError(f"others were still running after {self._patience:g} s") from None
