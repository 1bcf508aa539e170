"""Slots: a limit of n is n keys, `<key>./slots.<number>`, each free or taken.

One hot key under compare-and-set would serve one contender and turn all others away. With a key for each slot,
contenders collide only when they pick the same slot:

* For a single slot, a random one is tried at once. That is one round trip while slots are free.
* After a miss the store lists the taken slots, and a free one is picked from the rest.
* Of several slots a contender gets all or none. It claims no more than it needs, and frees them all if it gets too few.
* The list may contain markers of keys that an operator deleted. A claim replaces a marker. A limiter that refuses asks
  for the oldest owner, and the store removes the markers that are older. So a marker takes up a slot for at most one
  TTL, or one window: by then every living owner is stored after it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol, TypeVar

from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.key_value_store import LockStore

logger = logging.getLogger("diracx.tasks.locks")

_MAX_ROUNDS: Final = 3


class Slot(Protocol):
    """A slot that was taken."""

    async def abandon(self) -> None:
        """Free the slot: the task never began."""


S = TypeVar("S", bound=Slot)


class SlotsFullError(Exception):
    """Too few slots are free, or other contenders took the free ones first, several times in a row.

    Args:
        free: The number of free slots. As many as were asked for, or more: other contenders were quicker.
        collided: Whether other contenders took a slot after this attempt had listed it as free. They may have got too
            few as well, and be about to free it.
    """

    def __init__(self, free: int, *, collided: bool) -> None:
        self.free = free
        self.collided = collided
        super().__init__(f"{free} free")


def slots_of(key: str) -> str:
    """The prefix of the keys of a lock's slots."""
    return f"{key}./slots"


async def taken_slots(store: LockStore, key: str, limit: int) -> set[int]:
    """The numbers of the slots that are taken, of those within the limit. A slot with a marker counts as taken."""
    numbers = {int(name.rpartition(".")[2]) for name in await store.keys(slots_of(key))}
    return {number for number in numbers if number < limit}


async def take_slots(
    store: LockStore, key: str, limit: int, count: int, claim: Callable[[str], Awaitable[S | None]]
) -> list[S]:
    """Take `count` of `limit` slots, or none.

    Args:
        store: Lists the taken slots.
        key: The key of the lock.
        limit: The number of slots.
        count: The number of slots to take.
        claim: Takes the slot with this key, or returns None if it is taken already.

    Raises:
        SlotsFullError: Too few slots are free, or others were quicker; none was taken.
    """
    below = slots_of(key)
    taken: list[S] = []
    try:
        if count == 1 and (lucky := await claim(f"{below}.{random.randrange(limit)}")) is not None:
            return [lucky]
        available, claims = 0, 0
        for _ in range(_MAX_ROUNDS):
            busy, wanted = await taken_slots(store, key, limit), count - len(taken)
            # Slots of this contender are free again when it gives up.
            available = len(taken) + limit - len(busy)
            if available < count:
                break
            claims += wanted
            await _claim_all([f"{below}.{number}" for number in _free(limit, busy, wanted)], claim, taken)
            if len(taken) == count:
                return taken
        raise SlotsFullError(available, collided=claims > len(taken))
    except BaseException:
        try:
            await abandon_all(taken)
        except Exception as error:  # the first error is the one to raise
            logger.warning("a slot of %s was not freed: %s; it expires by itself", shown(key), error)
        raise


def _free(limit: int, busy: set[int], count: int) -> list[int]:
    """The numbers of some free slots, drawn at random. Costs as much as slots are taken, however large the limit is."""
    drawn = random.sample(range(min(limit, sys.maxsize)), min(limit, len(busy) + count))
    return [number for number in drawn if number not in busy][:count]


async def abandon_all(slots: Iterable[Slot]) -> None:
    """Free all slots concurrently. A failure keeps no other slot from being freed, and is raised at the end."""
    _raise_first(await asyncio.gather(*(slot.abandon() for slot in slots), return_exceptions=True))


async def _claim_all(keys: list[str], claim: Callable[[str], Awaitable[S | None]], taken: list[S]) -> None:
    """Claim slots concurrently. Add each success to `taken`, even if another claim fails."""

    async def claim_one(slot: str) -> None:
        if (got := await claim(slot)) is not None:
            taken.append(got)

    _raise_first(await asyncio.gather(*map(claim_one, keys), return_exceptions=True))


def _raise_first(results: list[BaseException | None]) -> None:
    failures = [error for error in results if error is not None]
    if failures:
        raise failures[0]
