"""Which locks does a parked task wait for, and who holds them?"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ConcurrencyLimiter, ExclusiveRWLock, MutexLock, SharedRWLock
from diracx.tasks.plumbing.operations.busy_locks import LockLookup
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.overrides.follower import ConfigurationBucket, ConfigurationFollower
from diracx.tasks.plumbing.wire.envelope import (
    Envelope,
)
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.locking import new_owner
from support.mesh import TaskMesh
from support.recording_tasks import Wait
from support.task_lookups import find


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class Takes(BaseTask):
    """Takes the locks that the test names."""

    which: str
    size = Size.SMALL

    @property
    def execution_locks(self) -> Any:
        if self.which == "raises":
            raise KeyError("which")
        return LOCKS[self.which]

    async def execute(self) -> None:
        recording_tasks.ran.append(self.which)


LOCKS: dict[str, list[BaseLock]] = {
    "free": [MutexLock(JOB, 5)],
    "mutex": [MutexLock(JOB, 4711)],
    "reader": [SharedRWLock(JOB, 2)],
    "writer": [ExclusiveRWLock(JOB, 1)],
    "limit": [ConcurrencyLimiter(JOB, 2, limit=1), ConcurrencyLimiter(JOB, 3, limit=2)],
}


async def test_a_parked_task_names_the_locks_that_others_hold(mesh: TaskMesh) -> None:
    mesh.register(Takes)
    mesh.allows_residue = True
    owner = new_owner("holder")
    held = [MutexLock(JOB, 4711), SharedRWLock(JOB, 1), ConcurrencyLimiter(JOB, 2, limit=1)]
    for lock in [*held, ConcurrencyLimiter(JOB, 3, limit=2)]:
        await lock.acquire(mesh.locks, owner)
    ids = {which: await Takes(which).schedule() for which in (*LOCKS, "raises")}
    async with mesh.working(lock_retry_delay=timedelta(hours=1)) as worker:
        await wait_until(lambda: worker.processed == len(ids), description="all were tried")
    found = {which: await find(mesh, task_id) for which, task_id in ids.items()}
    (mutex,) = found["mutex"].locks
    assert (mutex.key, mutex.kind, mutex.limit) == ("mutex.job.4711", "mutex", None)
    assert [holder.id for holder in mutex.holders] == [owner.id]
    assert (found["mutex"].state, found["free"].state) == (State.PARKED, State.UNKNOWN)
    waits = f"it waits for mutex.job.4711, held by {owner.task} {owner.id} on {owner.worker} since "
    assert any(line.startswith(waits) for line in found["mutex"].why)
    assert [lock.key for lock in found["writer"].locks] == ["rw.job.1"]
    assert [(lock.key, lock.limit) for lock in found["limit"].locks] == [("conc.job.2", 1)]
    assert any(line.endswith(" (1 at a time)") for line in found["limit"].why)
    assert found["raises"].state is State.UNKNOWN, "the failure of its locks was its own"


async def test_locks_that_cannot_be_told_are_said_in_one_line(mesh: TaskMesh) -> None:
    mesh.register(Takes)
    reader = LockReader(mesh.connection, mesh.namespace)
    lookup = LockLookup(mesh.registry, reader, ConfigurationFollower(mesh.connection, mesh.namespace))
    cases = {
        ("test:Takes", b'{"which":"raises"}'): "execution_locks raised KeyError: 'which'",
        ("test:Takes", b'{"which":4}'): "Expected `str`, got `int`",
        ("test:Gone", b"{}"): "test:Gone is not installed here",
    }
    for (name, body), problem in cases.items():
        locks, said = await lookup.busy(Envelope(name=name, id="1"), body)
        assert locks == []
        assert said is not None
        assert said.startswith("its locks are not known: ")
        assert problem in said


async def test_readers_keep_no_reader_out_and_a_writer_does(mesh: TaskMesh) -> None:
    mesh.register(Takes)
    mesh.allows_residue = True
    reader = LockReader(mesh.connection, mesh.namespace)
    lookup = LockLookup(mesh.registry, reader, ConfigurationFollower(mesh.connection, mesh.namespace))
    envelope, body = Envelope(name="test:Takes", id="1"), b'{"which":"reader"}'
    assert await lookup.busy(envelope, body) == ([], None)
    other = await SharedRWLock(JOB, 2).acquire(mesh.locks, new_owner())
    assert await lookup.busy(envelope, body) == ([], None)
    await other.release()
    await ExclusiveRWLock(JOB, 2).acquire(mesh.locks, new_owner("writer"))
    ((busy,), problem) = await lookup.busy(envelope, body)
    assert (busy.key, [holder.worker for holder in busy.holders], problem) == ("rw.job.2", ["writer"], None)
    own = Envelope(name="test:Takes", id=busy.holders[0].id)
    assert await lookup.busy(own, body) == ([], None), "what it holds itself is in nobody's way"


async def test_a_limit_of_the_configuration_is_among_the_locks(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    mesh.allows_residue = True
    await ConfigurationBucket(mesh.connection, mesh.namespace).write("tasks: {test:Wait: {concurrency_limit: 1}}")
    async with mesh.working(lock_retry_delay=timedelta(hours=1)) as worker:
        first = await Wait(1).schedule()
        await wait_until(lambda: recording_tasks.running == [1], description="the first one runs")
        second = await Wait(2).schedule()
        await wait_until(lambda: worker.processed == 1, description="the second one was tried")
        found = await find(mesh, second)
        recording_tasks.go.set()
    (lock,) = found.locks
    assert (lock.key, lock.limit, [holder.id for holder in lock.holders]) == ("conc.task.test.Wait", 1, [first])
