"""`Mesh.submitted` and `Mesh.assert_submitted`."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import ClassVar

import pytest
from pydantic import BaseModel

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.testing import Mesh, Submitted

LATER = datetime(2050, 1, 1, tzinfo=UTC)


@dataclasses.dataclass
class Sync(BaseTask):
    owner: str
    full: bool = False

    async def execute(self) -> None: ...


class Plain(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        await Sync("child").schedule(LATER, {"by": "Plain"})


class Model(BaseTask, BaseModel):
    size: ClassVar = Size.SMALL
    owner: str

    async def execute(self) -> None: ...


@dataclasses.dataclass(eq=False)
class ByIdentity(BaseTask):
    owner: str

    async def execute(self) -> None: ...


@pytest.fixture
async def mesh(server: EmbeddedServer, namespace: str) -> AsyncIterator[Mesh]:
    registry = TaskRegistry()
    for task_class in (Sync, Plain, Model, ByIdentity):
        registry.add(f"test:{task_class.__name__}", task_class)
    async with Mesh.on(server.url, namespace, registry) as mesh:
        yield mesh


async def test_what_the_test_and_its_tasks_submit_is_recorded(mesh: Mesh) -> None:
    parent = await Plain().schedule()
    await mesh.work()
    child = mesh.assert_submitted(Sync("child"))
    assert (child.at_time, child.labels, child.parent) == (LATER, {"by": "Plain"}, parent)
    assert await mesh.broker.cancel(child.id)
    assert mesh.submitted() == [Submitted(mesh.submitted(Plain)[0].task, parent), child]


async def test_a_task_is_recorded_as_it_was_stored_whatever_becomes_of_it(mesh: Mesh) -> None:
    task = Sync("alice")
    for owner in ("bob", "carol"):
        await task.schedule()
        task.owner = owner
    assert [each.task.owner for each in mesh.submitted(Sync)] == ["alice", "bob"]
    await mesh.work()


async def test_submissions_are_found_by_class_by_fields_and_by_an_equal_task(mesh: Mesh) -> None:
    await mesh.broker.submit_many([Sync("alice"), Sync("bob", full=True)], labels={"n": 1})
    await mesh.broker.schedule_many([Model(owner="alice"), ByIdentity("alice"), Plain()])
    assert [each.task for each in mesh.submitted(Sync)] == [Sync("alice"), Sync("bob", full=True)]
    assert [each.task for each in mesh.submitted(Sync, full=True)] == [Sync("bob", full=True)]
    assert mesh.submitted(Sync, owner="bob", full=False) == mesh.submitted(Sync("carol")) == []
    assert mesh.assert_submitted(Sync("alice")).labels == {"n": 1}
    assert len(mesh.submitted(BaseTask)) == len(mesh.submitted()) == 5
    for task in (Model(owner="alice"), ByIdentity("alice"), Plain()):
        assert mesh.assert_submitted(task).task is not task


async def test_what_was_not_stored_is_not_recorded(mesh: Mesh) -> None:
    class Unknown(Sync): ...

    with pytest.raises(TaskDefinitionError):
        await Unknown("alice").schedule()
    with pytest.raises(AssertionError, match=r"Unknown was not submitted, and nothing else was$"):
        mesh.assert_submitted(Unknown)


async def test_a_failure_lists_what_was_submitted_instead(mesh: Mesh) -> None:
    await Sync("bob").schedule(LATER, {"ticket": 7})
    await Plain().schedule()
    with pytest.raises(AssertionError) as missing:
        mesh.assert_submitted(Sync("alice"))
    assert str(missing.value).splitlines() == [
        "Sync(owner='alice', full=False) was not submitted, but:",
        "  Sync(owner='bob', full=False) at 2050-01-01T00:00:00+00:00 with labels {'ticket': 7}",
        "  Plain()",
    ]
    await mesh.broker.submit_many([Sync(f"{number}") for number in range(30)])
    with pytest.raises(AssertionError) as many:
        mesh.assert_submitted(Sync, full=False)
    first, *lines = str(many.value).splitlines()
    assert first == "Sync(full=False) was submitted 31 times:"
    assert (len(lines), lines[-1]) == (21, "  and 11 more")


async def test_a_filter_that_can_match_nothing_is_refused(mesh: Mesh) -> None:
    with pytest.raises(TypeError, match=r"^Sync has no field owner_name; it has owner, full$"):
        mesh.submitted(Sync, owner_name="alice")
    with pytest.raises(TypeError, match=r"^Plain has no field owner; it has none$"):
        mesh.submitted(Plain, owner="alice")
    with pytest.raises(TypeError, match=r"^values of fields need a class of tasks before them"):
        mesh.submitted(Sync("alice"), full=True)
    with pytest.raises(TypeError, match=r"^'acme:Sync' is no task; give a class, e\.g\. SyncOwnersTask, or a task"):
        mesh.submitted("acme:Sync")  # type: ignore[arg-type]
