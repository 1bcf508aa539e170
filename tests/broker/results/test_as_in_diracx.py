"""What DiracX documents of results, held against this project through its public names."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, TaskFailedError
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.testing import Mesh, wait_until


@dataclasses.dataclass
class Divides(BaseTask):
    dividend: int
    divisor: int

    async def execute(self) -> dict[str, int]:
        return {"quotient": self.dividend // self.divisor, "rest": self.dividend % self.divisor}


class Keeps(Divides):
    result_ttl_seconds = 600


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    registry = TaskRegistry()
    for task_class in (Divides, Keeps):
        registry.add(f"test:{task_class.__name__}", task_class)
    async with Mesh.on(server.url, namespace, registry) as mesh:
        yield mesh


async def test_the_value_of_a_task_is_returned(mesh: Mesh) -> None:
    by_class, by_submission = await Keeps(7, 2).schedule(), await Divides(9, 4).schedule(keep_result=600)
    await mesh.work()
    assert await mesh.result(by_class) == {"quotient": 3, "rest": 1}
    assert await mesh.result(by_submission) == {"quotient": 2, "rest": 1}


async def test_the_failure_of_a_task_is_raised(mesh: Mesh) -> None:
    task_id = await Keeps(7, 0).schedule()
    await mesh.work()
    with pytest.raises(TaskFailedError) as raised:
        await mesh.result(task_id)
    assert (raised.value.id, raised.value.type) == (task_id, "ZeroDivisionError")
    assert "in execute" in raised.value.traceback


async def test_a_result_that_is_not_there_is_an_error(mesh: Mesh) -> None:
    not_kept, unknown = await Divides(7, 2).schedule(), "0192"
    await mesh.work()
    for task_id in (not_kept, unknown):
        with pytest.raises(ResultIsMissingError, match=task_id):
            await mesh.result(task_id)


async def test_a_result_is_gone_after_its_time(mesh: Mesh) -> None:
    task_id = await Divides(7, 2).schedule(keep_result=1)
    await mesh.work()

    async def gone() -> bool:
        try:
            return not await mesh.result(task_id)
        except ResultIsMissingError:
            return True

    await wait_until(gone, description="its time is over", timeout=20)
