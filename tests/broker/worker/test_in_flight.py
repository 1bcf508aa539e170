"""Stopped between the arrival of a message and the first step of its task."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, ran

ALL = 20
stopping: list[Worker] = []


@dataclasses.dataclass
class StopsItsWorker(BaseTask):
    """Its neighbours came with it, and have yet to begin."""

    size = Size.SMALL

    async def execute(self) -> None:
        ran.append("stops")
        for worker in stopping:
            worker.stop_now()


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()
    stopping.clear()


async def test_what_has_not_begun_when_its_worker_stops_is_given_back_at_once_and_uncounted(mesh: TaskMesh) -> None:
    mesh.register(StopsItsWorker, Record)
    await mesh.broker.schedule_many([StopsItsWorker(), *(Record(n) for n in range(ALL))])
    worker = mesh.worker(slots=ALL + 1, grace=timedelta(0))
    stopping.append(worker)
    await worker.run()
    assert ran == ["stops"]
    assert worker.snapshot.busy == 0, "each slot is free again"
    await wait_until(lambda: _waits(mesh, ALL), description="the one that ran is settled")
    assert (await mesh.residue()).keys() <= {"tasks", "in flight"}, "nothing was recorded"
    stopping.clear()
    await mesh.burst()
    assert sorted(ran[1:]) == list(range(ALL))


async def _waits(mesh: TaskMesh, count: int) -> bool:
    return await mesh.waiting() == count
