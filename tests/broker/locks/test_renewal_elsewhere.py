"""A lock that two threads renew, each through a connection of its own, as when the loop that holds it is held up.

The answers and requests of one side are held back, so that each order of the two comes about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.execution.loops import run_on
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    AcquiredKey,
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from support.clock import ManualClock
from support.elsewhere import Elsewhere, HeldBack, stored
from support.locking import new_owner

RENEWED: list[Callable[..., BaseLock]] = [
    MutexLock,
    ExclusiveRWLock,
    SharedRWLock,
    partial(ConcurrencyLimiter, limit=3),
]
"""Each kind of lock that is renewed."""


@pytest.fixture(params=RENEWED, ids=["mutex", "writer", "reader", "concurrency"])
def kind(request: pytest.FixtureRequest) -> Callable[..., BaseLock]:
    found: Callable[..., BaseLock] = request.param
    return found


async def take(lock: BaseLock, store: Any) -> AcquiredKey:
    """Take a lock that is one key."""
    acquired = await lock.acquire(store, new_owner())
    assert isinstance(acquired, AcquiredKey)
    return acquired


async def test_an_answer_that_is_read_after_later_renewals_takes_nothing_back(
    kind: Callable[..., BaseLock], clock: ManualClock, bucket: Bucket, elsewhere: Elsewhere
) -> None:
    late = HeldBack(bucket, "replace")
    acquired = await take(kind(JOB, 7, clock=clock), late)
    token = acquired.token
    clock.now += 10
    renewing = asyncio.create_task(acquired.renew())
    await late.reached.wait()
    for _ in range(2):
        clock.now += 10
        await run_on(elsewhere.loop, acquired.renew(elsewhere.bucket))
        assert acquired.deadline == clock.now + 29
        assert acquired.revision == await stored(bucket, acquired.key)
    known = acquired.revision, acquired.deadline
    late.go.set()
    await renewing
    assert (acquired.revision, acquired.deadline) == known
    assert acquired.token == token
    await acquired.release()
    assert late.requests[-1] == "delete", "nothing was in doubt"
    assert await stored(bucket, acquired.key) is None


async def test_a_renewal_that_comes_second_renews_and_does_not_count_as_lost(
    kind: Callable[..., BaseLock], clock: ManualClock, bucket: Bucket, elsewhere: Elsewhere
) -> None:
    late = HeldBack(bucket, "replace", request=True)
    acquired = await take(kind(JOB, 7, clock=clock), late)
    renewing = asyncio.create_task(acquired.renew())
    await late.reached.wait()
    await run_on(elsewhere.loop, acquired.renew(elsewhere.bucket))
    before = acquired.revision
    clock.now += 10
    late.go.set()
    await renewing
    assert acquired.revision == await stored(bucket, acquired.key)
    assert acquired.revision > before
    assert acquired.deadline == clock.now + 29
    await acquired.release()
    assert await stored(bucket, acquired.key) is None


async def test_a_look_that_is_answered_late_does_not_bring_an_old_revision_back(
    bucket: Bucket, elsewhere: Elsewhere
) -> None:
    look = HeldBack(bucket, "read")
    late = HeldBack(look, "replace", request=True)
    acquired = await take(MutexLock(JOB, 7), late)
    renewing = asyncio.create_task(acquired.renew())
    await late.reached.wait()
    await run_on(elsewhere.loop, acquired.renew(elsewhere.bucket))
    late.go.set()
    await look.reached.wait()
    await run_on(elsewhere.loop, acquired.renew(elsewhere.bucket))
    newest = acquired.revision
    look.go.set()
    await renewing
    assert look.requests.count("read") == 1, "its second renewal replaced the newest revision"
    assert acquired.revision == await stored(bucket, acquired.key)
    assert acquired.revision > newest


async def test_a_release_after_an_unanswered_renewal_elsewhere_deletes_its_revision(
    bucket: Bucket, elsewhere: Elsewhere
) -> None:
    acquired = await take(MutexLock(JOB, 7), bucket)

    class LosesTheAnswer(HeldBack):
        async def _wait(self) -> None:
            raise ServerUnavailableError("the answer was lost")

    with pytest.raises(ServerUnavailableError):
        await run_on(elsewhere.loop, acquired.renew(LosesTheAnswer(elsewhere.bucket, "replace")))
    assert acquired.revision < (await stored(bucket, acquired.key) or 0)
    await acquired.release()
    assert await stored(bucket, acquired.key) is None


async def test_a_lock_whose_other_side_is_always_quicker_is_not_lost(bucket: Bucket, elsewhere: Elsewhere) -> None:
    class Slow(HeldBack):
        """The other side renews before each of its requests arrives."""

        async def _wait(self) -> None:
            await run_on(elsewhere.loop, acquired.renew(elsewhere.bucket))

    acquired = await take(MutexLock(JOB, 7), bucket)
    slow: Any = Slow(bucket, "replace", request=True)
    await acquired.renew(slow)
    assert slow.requests == ["replace", "read"] * 2
    assert acquired.revision == await stored(bucket, acquired.key)
    await acquired.release()
    assert await stored(bucket, acquired.key) is None


async def test_renewals_of_two_threads_at_full_speed_lose_no_lock(bucket: Bucket, elsewhere: Elsewhere) -> None:
    acquired = await take(MutexLock(JOB, 7), bucket)
    token, revisions = acquired.token, [acquired.revision]

    async def renew(store: Bucket | None) -> None:
        for _ in range(200):
            await acquired.renew(store)
            revisions.append(acquired.revision)

    await asyncio.gather(renew(None), run_on(elsewhere.loop, renew(elsewhere.bucket)))
    assert acquired.revision == max(revisions) == await stored(bucket, acquired.key)
    assert acquired.token == token
    await acquired.release()
    assert await stored(bucket, acquired.key) is None


async def test_an_admission_is_not_renewed_elsewhere_either(bucket: Bucket, elsewhere: Elsewhere) -> None:
    admission = await RateLimiter(JOB, 7, limit=1, window_seconds=60).acquire(bucket, new_owner())
    (key,) = await bucket.keys()
    await run_on(elsewhere.loop, admission.renew(elsewhere.bucket))
    assert await stored(bucket, key) == admission.token
