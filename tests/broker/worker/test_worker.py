"""Workers on a real server: their size and their stop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, Soon, Wait, attempts_seen, ran, running


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


class FailsOnceGone(Wait):
    """Waits as `Wait` does, then fails."""

    retry_policy = Soon()

    async def execute(self) -> None:
        await super().execute()
        raise ValueError("no")


async def test_a_worker_takes_only_tasks_of_its_size(mesh: TaskMesh) -> None:
    class Large(Record):
        size = Size.LARGE

    mesh.register(Record, Large)
    await Large(1).schedule()
    await Record(2).schedule()
    await mesh.burst()
    assert ran == [2]
    await mesh.burst(size=Size.LARGE)
    assert ran == [2, 1]


async def test_what_is_published_by_hand_with_a_name_and_a_json_body_runs(mesh: TaskMesh) -> None:
    class ShowId(Record):
        async def execute(self) -> None:
            ran.append((self.n, current_task_id.get()))

    mesh.register(ShowId)
    first, second = await mesh.publish_by_hand(
        ({"Task-Name": "test:ShowId"}, b'{"n": 7, "unknown": [1, {}]}'),
        ({"Task-Name": "test:ShowId", "Task-Id": "by-hand", "Task-Labels": '{"a": "b"}'}, b'{"n": 8}'),
    )
    await mesh.burst(slots=1)
    assert ran == [(7, str(first)), (8, "by-hand")]
    assert second == first + 1


async def test_a_worker_that_stops_gives_back_what_runs_and_counts_it_as_no_attempt(mesh: TaskMesh) -> None:
    mesh.register(FailsOnceGone)
    await mesh.broker.schedule_many(FailsOnceGone(n) for n in range(3))
    async with mesh.working(slots=3, grace=timedelta(0)):
        await wait_until(lambda: len(running) == 3, description="all three run")
    assert not running
    assert not ran
    assert await mesh.residue() == {"tasks": 3, "in flight": 3}, "nothing was recorded"
    recording_tasks.go.set()
    async with mesh.working(slots=3):
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="failed for good")
    assert sorted(ran) == [0, 0, 1, 1, 2, 2]
    assert sorted(attempts_seen) == [0, 0, 0, 1, 1, 1], "the interrupted execution used up no retry"


async def test_a_task_that_stopping_workers_give_back_time_and_again_is_not_taken_for_one_that_kills_them(
    mesh: TaskMesh,
) -> None:
    mesh.register(Wait)
    await Wait(1).schedule()
    for _ in range(7):
        async with mesh.working(grace=timedelta(0)):
            await wait_until(lambda: running, description="it runs")
        assert not running
    recording_tasks.go.set()
    await mesh.burst()
    assert ran == [1]
    assert not await mesh.dead_letters()


async def test_a_worker_that_stops_lets_running_tasks_end_within_the_grace_period(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    await mesh.broker.schedule_many(Wait(n) for n in range(5))
    async with mesh.working(slots=2) as worker:
        await wait_until(lambda: len(running) == 2, description="two run")
        worker.stop()
        recording_tasks.go.set()
    assert sorted(ran) == [0, 1]
    assert await mesh.waiting() == 3, "it asked for nothing more, and held nothing more"
    await mesh.burst()
    assert sorted(ran) == [0, 1, 2, 3, 4]


async def test_stop_now_ends_the_grace_period(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    await Wait(1).schedule()
    async with mesh.working() as worker:
        await wait_until(lambda: running, description="it runs")
        worker.stop()
        worker.stop_now()
    assert not ran
    recording_tasks.go.set()
    await mesh.burst()


async def test_a_stop_asked_for_before_the_worker_runs_is_not_lost(mesh: TaskMesh) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    worker = mesh.worker()
    worker.stop()
    async with asyncio.timeout(10):
        await worker.run()
    assert not ran
    await mesh.burst()


async def test_a_worker_on_missing_queues_says_so(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    await mesh.connection.api(f"CONSUMER.DELETE.{mesh.namespace.tasks_stream}.normal-small")
    worker = mesh.worker()
    with pytest.raises(ServerError, match="consumer not found"):
        await worker.run()


async def _equals(coroutine: Any, expected: object) -> bool:
    return bool(await coroutine == expected)
