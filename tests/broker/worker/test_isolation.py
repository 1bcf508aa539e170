"""Isolated tasks: their executions began twice and never ended, so they run alone in their worker."""

from __future__ import annotations

import logging
from datetime import timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.deliveries import leave_crashes
from support.mesh import TaskMesh
from support.recording_tasks import Record, Wait, most_at_once, ran, running


@pytest.fixture(autouse=True)
async def fresh(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Wait, Record)


async def submit_crashed(mesh: TaskMesh, *numbers: int, crashes: int = 2) -> None:
    """As `Wait` tasks; before anything else is submitted, so that their sequences are known."""
    await mesh.broker.schedule_many(Wait(n) for n in numbers)
    for sequence in range(1, len(numbers) + 1):
        await leave_crashes(mesh, sequence, crashes)


async def record(mesh: TaskMesh, sequence: int) -> AttemptRecord:
    entry = await mesh.attempts.read(str(sequence))
    assert entry is not None
    return msgspec.json.decode(entry.value, type=AttemptRecord)


async def several_round_trips(mesh: TaskMesh) -> None:
    """Time enough for a task in flight to read its record and begin."""
    for _ in range(10):
        await mesh.waiting()


async def test_tasks_that_crashed_twice_wait_until_the_others_have_ended_and_then_run_one_by_one(
    mesh: TaskMesh,
) -> None:
    await submit_crashed(mesh, 1, 2, 3)
    await mesh.broker.schedule_many(Wait(n) for n in (11, 12, 13))
    async with mesh.working():
        await wait_until(lambda: sorted(running) == [11, 12, 13], description="the others run")
        await several_round_trips(mesh)
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 6, description="all are done")
    assert sorted(ran[:3]) == [11, 12, 13]
    assert most_at_once == [1, 2, 3, 1, 1, 1]


async def test_a_task_that_crashed_once_is_not_isolated(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1, 2, crashes=1)
    async with mesh.working():
        await wait_until(lambda: sorted(running) == [1, 2], description="both run side by side")
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 2, description="both are done")


async def test_a_worker_takes_nothing_while_a_task_runs_isolated_and_goes_on_afterwards(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1)
    async with mesh.working() as busy:
        await wait_until(lambda: running == [1], description="the isolated task runs")
        async with mesh.working():
            await mesh.broker.schedule_many(Record(n) for n in range(100))
            await wait_until(lambda: len(ran) == 100, description="the other worker does the rest")
        assert busy.processed == 0
        recording_tasks.go.set()
        await Record(200).schedule()
        await wait_until(lambda: 200 in ran, description="the worker takes tasks again")


async def test_a_task_that_is_not_isolated_in_time_is_given_back_uncounted(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mesh.allows_residue = True
    await submit_crashed(mesh, 1)
    await Wait(11).schedule()
    async with mesh.working(isolation_timeout=timedelta(seconds=0.1), grace=timedelta(0)):
        given_back = "and was not isolated: other tasks were still running after 0.1 s"
        await wait_until(lambda: given_back in caplog.text, description="it is given back")
        assert running == [11]
        await Record(12).schedule()
        await wait_until(lambda: ran == [12], description="the worker takes tasks again")
    assert (await record(mesh, 1)).crashes == 2


async def test_a_worker_can_be_stopped_while_a_task_runs_isolated_and_counts_no_crash(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1, 2)
    async with mesh.working(grace=timedelta(0)):
        await wait_until(lambda: len(running) == 1, description="one of them runs")
        await Record(12).schedule()
        await several_round_trips(mesh)
    assert not running
    assert [(await record(mesh, sequence)).crashes for sequence in (1, 2)] == [2, 2]
    recording_tasks.go.set()
    await mesh.burst()
    assert sorted(ran) == [1, 2, 12]


async def test_an_isolated_task_has_the_grace_period_to_end(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1)
    async with mesh.working() as worker:
        await wait_until(lambda: running == [1], description="the isolated task runs")
        await Record(12).schedule()
        await several_round_trips(mesh)
        worker.stop()
        recording_tasks.go.set()
    assert ran == [1], "and nothing new was begun"
    await mesh.burst()
