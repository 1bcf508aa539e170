"""Slots, and the refusal of a rate limiter whose slots are full or were taken by quicker contenders."""

from __future__ import annotations

from datetime import timedelta

import pytest

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnableToAcquireLockError
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import AcquiredKey, RateLimiter
from diracx.tasks.plumbing.locks.slots import SlotsFullError, slots_of, take_slots
from support.lock_store import RecordingStore
from support.locking import new_owner

WINDOW = timedelta(seconds=60)
KEY = "rate.job.1"


class QuickerContenders(RecordingStore):
    """Other contenders take the slots between a listing and the claim: the listing shows them as free."""

    def __init__(self, listings: int) -> None:
        super().__init__()
        self.listings = listings
        """So many listings show every slot that this test has not taken as free."""

    async def keys(self, below: str | None = None) -> list[str]:
        found = await super().keys(below)
        self.listings -= 1
        return found if self.listings < 0 else []


async def fill(store: RecordingStore, *numbers: int, key: str = KEY) -> None:
    for number in numbers:
        await store.create(f"{slots_of(key)}.{number}", b"another", WINDOW)


async def take(store: RecordingStore, count: int, limit: int = 4) -> list[AcquiredKey]:
    owner = new_owner()

    async def claim(slot: str) -> AcquiredKey | None:
        return await AcquiredKey.claim(store, slot, owner, WINDOW, boottime)

    return await take_slots(store, KEY, limit, count, claim)


@pytest.mark.parametrize("limit", [10**9, 10**30])
async def test_a_limit_that_nobody_reaches_costs_no_more_than_the_slots_that_are_taken(limit: int) -> None:
    store = RecordingStore()
    await fill(store, 0, 1)
    assert len(await take(store, 3, limit)) == 3
    assert len(store.entries) == 5


async def test_slots_beyond_a_lowered_limit_are_not_counted() -> None:
    store = RecordingStore()
    await fill(store, 0, 1, 7)
    assert {key.key.rpartition(".")[2] for key in await take(store, 2)} == {"2", "3"}


async def test_too_few_free_slots_are_counted_and_none_is_kept() -> None:
    store = RecordingStore()
    await fill(store, 0, 1)
    with pytest.raises(SlotsFullError) as caught:
        await take(store, 3)
    assert caught.value.free == 2
    assert len(store.entries) == 2


async def test_slots_that_quicker_contenders_took_count_as_free_after_three_rounds() -> None:
    store = QuickerContenders(listings=3)
    await fill(store, 0, 1, 2, 3)
    with pytest.raises(SlotsFullError) as caught:
        await take(store, 1)
    assert caught.value.free == 4
    assert len(store.requested("keys")) == 3
    assert len(store.entries) == 4


async def test_after_one_collision_the_slots_are_full_if_the_next_listing_says_so() -> None:
    store = QuickerContenders(listings=1)
    await fill(store, 0, 1, 2, 3)
    with pytest.raises(SlotsFullError) as caught:
        await take(store, 1)
    assert caught.value.free == 0


@pytest.mark.parametrize("items", [1, 2])
async def test_a_rate_limiter_whose_free_slots_others_took_first_is_tried_again_at_once(items: int) -> None:
    store = QuickerContenders(listings=3)
    await fill(store, 0, 1, 2, 3)
    with pytest.raises(UnableToAcquireLockError) as caught:
        await RateLimiter(JOB, 1, n_items=items, limit=4, window_seconds=60).acquire(store, new_owner())
    assert caught.value.retry_after is not None
    assert timedelta(seconds=0.05) <= caught.value.retry_after <= timedelta(seconds=0.15)
    assert "took the free slots" in str(caught.value)


async def test_a_long_key_is_cut_where_its_refusal_is_shown() -> None:
    limiter = RateLimiter(JOB, *["x" * 200] * 10, limit=2, window_seconds=60)
    for listings in (0, 3):
        store = QuickerContenders(listings)
        await fill(store, 0, 1, key=limiter.key)
        with pytest.raises(UnableToAcquireLockError, match=r"xxx \[cut\]"):
            await limiter.acquire(store, new_owner())


async def test_a_full_rate_limiter_is_tried_again_when_its_oldest_admission_ends() -> None:
    store = RecordingStore()
    await fill(store, 0, 1, 2, 3)
    with pytest.raises(UnableToAcquireLockError) as caught:
        await RateLimiter(JOB, 1, limit=4, window_seconds=60).acquire(store, new_owner())
    assert caught.value.retry_after is not None
    assert timedelta(seconds=55) < caught.value.retry_after <= WINDOW
    assert "has admitted its 4 in 60 s" in str(caught.value)


async def test_a_contender_that_took_a_part_only_is_tried_again_at_once_since_the_other_may_free_its_part() -> None:
    store = QuickerContenders(listings=1)
    await fill(store, 0, 1)
    with pytest.raises(UnableToAcquireLockError, match="took the free slots") as caught:
        await RateLimiter(JOB, 1, n_items=3, limit=4, window_seconds=60).acquire(store, new_owner())
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= timedelta(seconds=0.15)
    assert len(store.entries) == 2


async def test_slots_that_are_freed_while_a_refusal_is_made_are_tried_again_at_once() -> None:
    class FreedMeanwhile(RecordingStore):
        """Another contender gives up its part after the first listing."""

        async def keys(self, below: str | None = None) -> list[str]:
            found = await super().keys(below)
            self._entries.pop(f"{slots_of(KEY)}.0", None)
            return found

    store = FreedMeanwhile()
    await fill(store, 0, 1)
    with pytest.raises(UnableToAcquireLockError) as caught:
        await RateLimiter(JOB, 1, n_items=3, limit=4, window_seconds=60).acquire(store, new_owner())
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= timedelta(seconds=0.15)


class FirstDeleteFails(RecordingStore):
    """The first delete fails like a bug, not like a server."""

    async def delete(self, key: str, revision: int) -> None:
        if not self.requested("delete"):
            self.requests.append(f"delete {key}")
            raise ValueError("the first")
        await super().delete(key, revision)


async def test_slots_given_up_are_all_freed_though_one_cannot_be() -> None:
    store = FirstDeleteFails()
    owner = new_owner()

    async def claim(slot: str) -> AcquiredKey | None:
        if slot.endswith(".3"):
            raise ServerUnavailableError("no answer")
        return await AcquiredKey.claim(store, slot, owner, WINDOW, boottime)

    with pytest.raises(ServerUnavailableError):
        await take_slots(store, KEY, 4, 4, claim)
    assert len(store.requested("delete")) == 3
    assert len(store.entries) == 1


async def test_an_admission_undone_frees_all_slots_though_one_cannot_be() -> None:
    store = FirstDeleteFails()
    admission = await RateLimiter(JOB, 1, n_items=3, limit=3, window_seconds=60).acquire(store, new_owner())
    with pytest.raises(ValueError, match="the first"):
        await admission.abandon()
    assert len(store.entries) == 1
