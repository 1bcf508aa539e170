"""`SyncOwnersTask`, executed once by `run_task` and by the workers of a `mesh`."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskRetryRequestedError, UnableToAcquireLockError
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, NoRetry
from diracx.tasks.testing import (
    Dead,
    Discarded,
    InMemoryLockStore,
    LockBusy,
    Mesh,
    Retry,
    Succeeded,
    run_task,
    wait_until,
)
from gubbins.db.sql import LollygagDB
from gubbins.tasks import depends
from gubbins.tasks.lollygag import SyncOwnersTask


@dataclasses.dataclass
class FailsAfterItsInsert(BaseTask):
    size = Size.SMALL

    async def execute(self, lollygag_db: depends.LollygagDB, **kwargs: Any) -> None:
        await lollygag_db.insert_owner("alice")
        raise ValueError("after the insert")


@dataclasses.dataclass
class FailsToCommit(BaseTask):
    size = Size.SMALL

    async def execute(self, lollygag_db: depends.LollygagDB, **kwargs: Any) -> int:
        await lollygag_db.insert_owner("alice")
        return await lollygag_db.insert_car("Fiat Panda", owner_id=4711)


async def owners(database: LollygagDB) -> list[str]:
    async with database:
        return await database.get_owner()


class Slow:
    """Stands in for the database, and keeps a task in its `execute()` until it is told to go on."""

    def __init__(self) -> None:
        self.begun = 0
        self.go_on = asyncio.Event()

    async def transaction(self) -> AsyncIterator[Slow]:
        yield self

    async def insert_owner(self, name: str) -> int:
        self.begun += 1
        await self.go_on.wait()
        return 1


async def test_an_owner_is_stored_and_keeps_the_id(lollygag_db: LollygagDB) -> None:
    assert await run_task(SyncOwnersTask("alice")) == 1
    assert await run_task(SyncOwnersTask("bob")) == 2
    assert await run_task(SyncOwnersTask("alice")) == 1
    assert await owners(lollygag_db) == ["alice", "bob"]


async def test_a_task_that_fails_leaves_no_row(lollygag_db: LollygagDB) -> None:
    with pytest.raises(ValueError, match="after the insert"):
        await run_task(FailsAfterItsInsert())
    assert await owners(lollygag_db) == []


async def test_a_commit_that_fails_is_a_failure_and_leaves_no_row(lollygag_db: LollygagDB) -> None:
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await run_task(FailsToCommit())
    assert await owners(lollygag_db) == []


async def test_two_syncs_of_one_owner_exclude_each_other_and_others_do_not() -> None:
    store, slow = InMemoryLockStore(), Slow()
    overrides = {LollygagDB.transaction: slow.transaction}
    first = asyncio.create_task(run_task(SyncOwnersTask("alice"), overrides=overrides, lock_store=store))
    await wait_until(lambda: slow.begun == 1, description="the first has begun")
    with pytest.raises(UnableToAcquireLockError, match=r"mutex\.lollygag\.alice is held by SyncOwnersTask"):
        await run_task(SyncOwnersTask("alice"), overrides=overrides, lock_store=store)
    second = asyncio.create_task(run_task(SyncOwnersTask("bob"), overrides=overrides, lock_store=store))
    await wait_until(lambda: slow.begun == 2, description="the second has begun, too")
    slow.go_on.set()
    assert list(await asyncio.gather(first, second)) == [1, 1]
    assert await store.keys() == []


async def test_workers_execute_what_is_submitted(mesh: Mesh, lollygag_db: LollygagDB) -> None:
    await SyncOwnersTask("alice").schedule()
    task_id = await mesh.submit(SyncOwnersTask("bob"), labels={"why": "a test"})
    delivered = await mesh.work()
    assert [each.task for each in delivered] == ["lollygag:SyncOwnersTask"] * 2
    assert task_id in [each.id for each in delivered]
    assert {each.outcome for each in delivered} == {Succeeded(1), Succeeded(2)}
    assert sorted(await owners(lollygag_db)) == ["alice", "bob"]


async def test_a_sync_that_waits_for_another_of_its_owner_uses_up_no_retry(mesh: Mesh) -> None:
    slow = Slow()
    for _ in range(2):
        await SyncOwnersTask("alice").schedule()
    draining = asyncio.create_task(mesh.drain(overrides={LollygagDB.transaction: slow.transaction}))
    await wait_until(lambda: mesh.outcomes, description="one found the lock held")
    assert isinstance(mesh.outcomes[0].outcome, LockBusy)
    slow.go_on.set()
    outcomes = [each.outcome for each in await draining]
    assert outcomes.count(Succeeded(1)) == 2
    assert not [outcome for outcome in outcomes if isinstance(outcome, Retry)]


async def test_a_retry_recovers(mesh: Mesh, lollygag_db: LollygagDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SyncOwnersTask, "retry_policy", ExponentialBackoff(base_delay_seconds=0.1, max_retries=3))
    tries = 0

    async def transaction() -> AsyncIterator[LollygagDB]:
        nonlocal tries
        tries += 1
        async with lollygag_db:
            yield lollygag_db
            if tries <= 2:
                raise TaskRetryRequestedError("upstream not ready")

    await SyncOwnersTask("alice").schedule()
    delivered = await mesh.drain(overrides={LollygagDB.transaction: transaction})
    assert [type(each.outcome) for each in delivered] == [Retry, Retry, Succeeded]
    assert await owners(lollygag_db) == ["alice"]


async def test_a_sync_without_a_retry_left_is_kept_as_a_dead_letter(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyncOwnersTask, "retry_policy", ExponentialBackoff(base_delay_seconds=0.1, max_retries=1))

    async def no_database() -> LollygagDB:
        raise ConnectionError("no database today")

    await SyncOwnersTask("alice").schedule()
    delivered = await mesh.drain(overrides={LollygagDB.transaction: no_database})
    assert [type(each.outcome) for each in delivered] == [Retry, Dead]
    (letter,) = await mesh.dead_letters()
    assert (letter.task, letter.args) == ("lollygag:SyncOwnersTask", {"owner_name": "alice"})
    assert [error.message for error in letter.errors] == ["no database today"] * 2


async def test_a_worker_counts_a_failing_commit_as_a_failure(mesh: Mesh, lollygag_db: LollygagDB) -> None:
    mesh.registry.add("test:FailsToCommit", FailsToCommit)
    await FailsToCommit().schedule()
    (delivered,) = await mesh.work()
    assert isinstance(delivered.outcome, Discarded)
    assert "FOREIGN KEY" in str(delivered.outcome.failure)
    assert await owners(lollygag_db) == []


async def test_a_worker_without_the_database_fails_the_task_and_names_the_variable(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DIRACX_DB_URL_LOLLYGAGDB", raising=False)
    monkeypatch.setattr(SyncOwnersTask, "retry_policy", NoRetry())
    await SyncOwnersTask("alice").schedule()
    (delivered,) = await mesh.work()
    assert isinstance(delivered.outcome, Dead)
    assert "set DIRACX_DB_URL_LOLLYGAGDB" in str(delivered.outcome.failure)
