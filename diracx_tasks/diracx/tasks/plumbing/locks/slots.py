"""Slots: `limit` keys, `<key>./slots.<number>`, of which each is free or taken.

One hot key under compare-and-set serves one contender and turns all others away; with a key for each slot contenders
meet only when they pick the same one. A lone slot is picked at random and tried at once, which is one round trip as
long as some are free; after a miss the store is asked which are taken, and a free one is picked from the rest.

Of several slots a contender gets all or none: it tries for no more than there are, and gives back what it got when
that was not enough.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from diracx.tasks.plumbing.key_value_store import LockStore

_ROUNDS: Final = 3


class Slot(Protocol):
    """A slot that was taken."""

    async def abandon(self) -> None:
        """Free it as if it had never been taken."""


S = TypeVar("S", bound=Slot)


class Full(Exception):  # noqa: N818 - an answer, not an error
    """Fewer slots are free than were asked for.

    Args:
        free: How many are.
    """

    def __init__(self, free: int) -> None:
        self.free = free
        super().__init__(f"{free} free")


def slots_of(key: str) -> str:
    """What the keys of a lock's slots begin with."""
    return f"{key}./slots"


async def take_slots(
    store: LockStore, key: str, limit: int, count: int, claim: Callable[[str], Awaitable[S | None]]
) -> list[S]:
    """Take `count` of `limit` slots.

    Args:
        key: Of the lock.
        claim: Takes the slot of a key, or returns None when somebody else has it.

    Raises:
        Full: Not so many are free; none is taken.
    """
    below = slots_of(key)
    taken: list[S] = []
    try:
        if count == 1 and (lucky := await claim(f"{below}.{random.randrange(limit)}")) is not None:
            return [lucky]
        for _ in range(_ROUNDS):
            busy = set(await store.keys(below))
            free = [name for number in range(limit) if (name := f"{below}.{number}") not in busy]
            if len(taken) + len(free) < count:
                raise Full(len(free))
            await _claim_all(random.sample(free, count - len(taken)), claim, taken)
            if len(taken) == count:
                return taken
        raise Full(0)
    except BaseException:
        for slot in taken:
            await slot.abandon()
        raise


async def _claim_all(keys: list[str], claim: Callable[[str], Awaitable[S | None]], taken: list[S]) -> None:
    """Claim several at once; those that were got are added to `taken`, even when others fail."""

    async def one(slot: str) -> None:
        if (got := await claim(slot)) is not None:
            taken.append(got)

    failures = [error for error in await asyncio.gather(*map(one, keys), return_exceptions=True) if error is not None]
    if failures:
        raise failures[0]
