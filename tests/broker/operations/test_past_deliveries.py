"""What the workers remember of one task: its failures, and how often it was given back for a lock."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters.dead_tasks import dead_tasks
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.micro import serving
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.past_deliveries import past_deliveries, past_events
from diracx.tasks.plumbing.operations.task_document import State
from diracx.tasks.plumbing.operations.task_search import TaskSearch, Wanted
from diracx.tasks.plumbing.operations.worker_service import ENDED, advertised
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.plumbing.worker.worker import Worker
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.answering import earlier_worker
from support.failing_tasks import Dies
from support.locking import new_owner
from support.mesh import TaskMesh
from support.recording_tasks import Soon, Wait
from support.task_lookups import find

LOCK = MutexLock(JOB, 4711)


class Fails(BaseTask):
    """Takes a lock, and fails twice."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0.01, max_retries=1)

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [LOCK]

    async def execute(self) -> None:
        raise ValueError("no such owner")


@asynccontextmanager
async def told(mesh: TaskMesh, **settings: Any) -> AsyncIterator[tuple[Worker, Counters]]:
    """A worker that answers operators."""
    counters = Counters()
    async with (
        mesh.working(counters=counters, **settings) as worker,
        advertised(worker, counters, mesh.connection, mesh.namespace),
    ):
        yield worker, counters


async def test_a_task_of_which_nothing_is_stored_has_its_lock_waits_and_attempts(mesh: TaskMesh) -> None:
    mesh.register(Fails)
    held = await LOCK.acquire(mesh.locks, new_owner("holder"))
    async with told(mesh, lock_retry_delay=timedelta(seconds=0.01)) as (worker, counters):
        task_id, other = await Fails().schedule(), await Fails().schedule()
        await wait_until(
            lambda: (queue := counters.queues.get("normal-small")) and queue.lock_busy >= 6, description="both waited"
        )
        waits = await find(mesh, task_id)
        await held.release()
        await wait_until(lambda: counters.queues["normal-small"].dropped == 2, description="both were dropped")
        found = await find(mesh, task_id)
        of_other = await past_deliveries(mesh.connection, mesh.namespace, other)
    assert (waits.state, {each.outcome for each in waits.past}) == (State.PARKED, {"lock_busy"})
    assert (found.state, found.status, found.task) == (State.DONE, "failed", "test:Fails")
    *locked, retried, dropped = found.past
    assert {each.outcome for each in locked} == {"lock_busy"}
    assert [(each.outcome, each.attempt, each.status, each.worker) for each in (retried, dropped)] == [
        ("retry", 1, None, worker.id),
        ("discarded", 2, "failed", worker.id),
    ]
    assert [each.at for each in found.past] == sorted(each.at for each in found.past)
    (why,) = found.why
    assert why.startswith("it has failed at ")
    assert why.endswith(f" on {worker.id}: ValueError: no such owner; nothing else of it is stored")
    waited, first, second = past_events(found)
    assert waited.text.startswith("given back")
    assert f" by {worker.id}: mutex.job.4711 is held by lollygag:SyncOwnersTask 0192 on holder since " in waited.text
    assert first.text == f"attempt 1 failed on {worker.id}: ValueError: no such owner"
    assert second.text == f"attempt 2 failed for good on {worker.id}: ValueError: no such owner"
    assert not set(found.past) & set(of_other), "those of another task"


async def test_a_dead_letter_that_was_purged_or_replayed_is_remembered(mesh: TaskMesh) -> None:
    mesh.register(Dies)
    async with told(mesh) as (worker, counters):
        task_id = await Dies().schedule()
        await wait_until(lambda: counters.deliveries == 1, description="it died")
        dead = await find(mesh, task_id)
        assert (dead.state, len(dead.past), past_events(dead)) == (State.DEAD, 1, []), "its dead letter tells all"
        assert [each.attempt for each in dead.past] == [1], "it was executed once"
        (letter,) = [each async for each in dead_tasks(mesh.connection, mesh.namespace, lambda _: True, last=2)]
        await Replayer(mesh.connection, mesh.namespace).replay(letter)
        await wait_until(lambda: counters.deliveries == 2, description="it died again")
        again = await find(mesh, task_id)
        await mesh.connection.api(f"STREAM.PURGE.{mesh.namespace.dead_letters_stream}")
        purged = await find(mesh, task_id)
    (first,) = past_events(again)
    assert first.text == f"became a dead letter on {worker.id}: ValueError: no such mouse"
    assert (purged.state, purged.status) == (State.DONE, "failed")
    (both,) = past_events(purged)
    assert re.fullmatch(rf"became a dead letter 2 times until \S+, the last time on {worker.id}: .*", both.text)


class FailsOnce(Wait):
    """Fails, and runs at its second attempt until the test sets `go`."""

    retry_policy = Soon()

    async def execute(self) -> None:
        if not recording_tasks.attempts_seen:
            raise ValueError("no such owner")
        await super().execute()


async def test_the_execution_that_goes_on_is_none_of_the_attempts_that_failed(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(FailsOnce)
    async with told(mesh) as (_, _):
        task_id = await FailsOnce(1).schedule()
        await wait_until(lambda: recording_tasks.running == [1], description="its second attempt runs")
        found = await find(mesh, task_id)
        searched = await TaskSearch(mesh.connection, mesh.namespace, mesh.registry).find(Wanted([State.RUNNING]))
        recording_tasks.go.set()
    assert [(each.attempt, each.state) for each in found.running] == [(2, "executing")]
    assert (found.attempts, len(found.errors)) == (1, 1)
    assert [each.attempts for each in searched.tasks] == [1]


async def test_a_worker_of_an_earlier_version_tells_of_all_tasks_and_only_this_one_counts(mesh: TaskMesh) -> None:
    ended = {"task": "a:B", "queue": "normal-small", "outcome": "retry", "error": "E", "message": "", "attempt": 1}
    ended |= {"at": "2026-12-01T06:00:00Z", "seconds": 1.0}
    earlier = earlier_worker(
        mesh.namespace,
        questions={ENDED: lambda _: {"ended": [{"id": each, **ended} for each in ("one", "other")], "left_off": 0}},
    )
    async with serving(mesh.connection, earlier):
        found = await find(mesh, "one")
    assert [(each.worker, each.task, each.status) for each in found.past] == [("host-1-small", "a:B", None)]
    assert (found.state, found.task) == (State.UNKNOWN, "a:B"), "whether it has ended is not known"
