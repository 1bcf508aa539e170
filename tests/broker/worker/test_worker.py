"""Workers on a real server: the order of tasks, and their slots."""

from __future__ import annotations

from typing import Any

import pytest

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.submitter import current_task_id
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import (
    Record,
    RecordBackground,
    RecordRealtime,
    Wait,
    WaitBackground,
    WaitRealtime,
    most_at_once,
    ran,
    running,
)


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


async def test_realtime_goes_first_then_normal_then_background_each_first_in_first_out(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime, RecordBackground)
    for first, kind in ((200, RecordBackground), (100, Record), (0, RecordRealtime)):
        for n in range(first, first + 50):
            await kind(n).schedule()
    await mesh.burst(slots=1)
    assert ran == [*range(50), *range(100, 150), *range(200, 250)]


async def test_a_task_that_arrives_at_an_idle_worker_runs_whatever_its_priority(mesh: TaskMesh) -> None:
    mesh.register(Record, RecordRealtime, RecordBackground)
    async with mesh.working(slots=1):
        for n, kind in enumerate((RecordBackground, Record, RecordRealtime) * 3):
            await kind(n).schedule()
            await wait_until(lambda n=n: n in ran, description=f"task {n} ran")  # type: ignore[misc]
    assert ran == list(range(9))


async def test_no_more_tasks_run_at_once_than_there_are_slots(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=5):
        for _ in range(2):
            kinds = [kind for kind in (Wait, WaitRealtime, WaitBackground) for _ in range(10)]
            ids = await mesh.broker.schedule_many(kind(n) for n, kind in enumerate(kinds))
            assert len(set(ids)) == 30
            await wait_until(lambda: len(running) == 5, description="all slots are in use")
            recording_tasks.go.set()
            await wait_until(lambda: _equals(mesh.waiting(), 0), description="all are done")
            recording_tasks.go.clear()
    assert max(most_at_once) == 5
    assert sorted(ran) == sorted([*range(30)] * 2)


async def test_more_arrivals_than_free_slots_at_an_idle_worker_run_one_after_another(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=1):
        for _ in range(5):
            await mesh.broker.schedule_many(kind(n) for n, kind in enumerate((Wait, WaitRealtime, WaitBackground)))
            await wait_until(lambda: running, description="the first one runs")
            recording_tasks.go.set()
            await wait_until(lambda: _equals(mesh.waiting(), 0), description="all three are done")
            recording_tasks.go.clear()
    assert max(most_at_once) == 1
    assert sorted(ran) == sorted([0, 1, 2] * 5)


async def test_nothing_is_held_without_a_slot_where_another_worker_has_one(mesh: TaskMesh) -> None:
    mesh.register(Wait, WaitRealtime, WaitBackground)
    async with mesh.working(slots=1), mesh.working(slots=1):
        kinds = [kind for kind in (Wait, WaitRealtime, WaitBackground) for _ in range(4)]
        await mesh.broker.schedule_many(kind(n) for n, kind in enumerate(kinds))
        await wait_until(lambda: len(running) == 2, description="both are busy")
        async with mesh.working(slots=20):
            await wait_until(lambda: len(running) == 12, description="a third one runs all others")
            recording_tasks.go.set()


async def test_a_free_slot_is_not_starved_by_long_tasks_in_the_others(mesh: TaskMesh) -> None:
    mesh.register(Wait, Record)
    async with mesh.working(slots=10):
        await mesh.broker.schedule_many(Wait(n) for n in range(9))
        await wait_until(lambda: len(running) == 9, description="nine long tasks run")
        for n in range(100, 103):
            await Record(n).schedule()
            await wait_until(lambda n=n: n in ran, description="the new task ran beside them")  # type: ignore[misc]
        assert len(running) == 9
        recording_tasks.go.set()


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


async def _equals(coroutine: Any, expected: object) -> bool:
    return bool(await coroutine == expected)
