"""Groups in the mesh of a test."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

import pytest

from diracx.tasks.depends import CallbackSpawner
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import spawn_with_callback
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.groups.records import callback_id, child_id
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.testing import Mesh, Submitted, Succeeded


@dataclasses.dataclass
class Waits(BaseTask):
    """Waits an hour for its retry."""

    n: int
    size = Size.LARGE
    retry_policy = ExponentialBackoff(base_delay_seconds=3_600, max_retries=1)

    async def execute(self) -> None:
        raise ValueError("not yet")


@dataclasses.dataclass
class After(BaseTask):
    note: str = ""
    size = Size.SMALL

    async def execute(self) -> str:
        return f"after {self.note}"


@dataclasses.dataclass
class Parent(BaseTask):
    children: int

    async def execute(self, spawn_with_callback: CallbackSpawner) -> str:
        await spawn_with_callback([Waits(n) for n in range(self.children)], After("all"), labels={"by": "a parent"})
        return await spawn_with_callback(iter(()), After("none"))


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    registry = TaskRegistry()
    for task_class in (Waits, After, Parent):
        registry.add(f"test:{task_class.__name__}", task_class)
    async with Mesh.on(server.url, namespace, registry) as mesh:
        yield mesh


async def test_a_spawned_group_counts_as_submitted_and_its_callback_is_worked_for(mesh: Mesh) -> None:
    mesh.leave_leftovers()
    parent = await Parent(2).schedule()
    delivered = {each.id: each.outcome for each in await mesh.work()}
    first, second = f"{parent}-0", f"{parent}-1"
    assert delivered[parent] == Succeeded(second)
    assert mesh.submitted()[1:] == [
        Submitted(Waits(0), child_id(first, 0), None, {"by": "a parent"}, parent),
        Submitted(Waits(1), child_id(first, 1), None, {"by": "a parent"}, parent),
        Submitted(After("all"), callback_id(first), None, {"by": "a parent"}, parent),
        Submitted(After("none"), callback_id(second), None, {}, parent),
    ]
    # The callback of a group whose children have ended falls due a moment later; any other is not waited for.
    assert delivered[callback_id(second)] == Succeeded("after none")
    assert callback_id(first) not in delivered


async def test_children_that_a_worker_stores_are_worked_for(mesh: Mesh) -> None:
    mesh.leave_leftovers()
    group = await spawn_with_callback((Waits(n) for n in range(1_001)), After())
    ended = {each.id for each in await mesh.work(limit=3_000, max_concurrent_tasks=100)}
    assert {child_id(group, index) for index in range(1_001)} <= ended


async def test_a_group_that_is_refused_is_not_recorded(mesh: Mesh) -> None:
    with pytest.raises(TypeError, match="the children are a Waits; give a list of tasks"):
        await spawn_with_callback(Waits(1), After())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ttl_seconds"):
        await spawn_with_callback([Waits(1)], After(), ttl_seconds=0)
    assert mesh.submitted() == []
