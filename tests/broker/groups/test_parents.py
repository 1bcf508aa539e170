"""Tasks that spawn groups, executed by workers; and the messages that have a worker store the children of a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.job import Dead, Discarded, Outcome, Succeeded
from diracx.tasks.plumbing.execution.thread import executing
from diracx.tasks.plumbing.groups.records import callback_id, part_id
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.testing import wait_until
from support import spawned
from support.mesh import END_SECONDS, TaskMesh
from support.spawned import ALL, Child, LargeParent, MediumParent, Parent, ids, in_queues, later, part_of, record_of


@pytest.fixture
async def mesh(mesh: TaskMesh) -> AsyncIterator[TaskMesh]:
    mesh.register(*ALL)
    mesh.allows_residue = True
    spawned.groups.clear()
    yield mesh
    spawned.groups.clear()


async def test_a_task_spawns_groups_which_know_it_as_their_parent(mesh: TaskMesh) -> None:
    parent = await Parent((1, 2), note="done").schedule()
    await mesh.burst()
    first, second = f"{parent}-0", f"{parent}-1"
    assert spawned.groups == [first, second]

    async def only_children_are_left() -> bool:
        # The server queues acks, and applies that of the parent a moment after it was sent.
        return await in_queues(mesh) == [*ids(first, 1), *ids(second, 2)]

    await wait_until(only_children_are_left, description="the children are in their queues, and nothing else")
    stored = await mesh.stored(mesh.namespace.tasks_stream)
    assert {each.headers["Task-Parent"] for each in stored} == {parent}
    held = await later(mesh, mesh.namespace.delayed_subject(callback_id(second)))
    assert held is not None
    assert (held.headers["Task-Parent"], held.body) == (parent, b'{"note":"done"}')


async def test_a_parent_that_is_retried_gets_the_groups_that_it_has(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    parent = await Parent((1, 2), fails=2).schedule()
    async with mesh.working():
        await wait_until(lambda: len(spawned.groups) == 6, description="it was executed three times", timeout=20)
    assert spawned.groups == [f"{parent}-0", f"{parent}-1"] * 3
    assert await in_queues(mesh) == [*ids(f"{parent}-0", 1), *ids(f"{parent}-1", 2)]
    assert "stays as it was" not in caplog.text


@pytest.mark.parametrize("parent", [MediumParent, LargeParent])
async def test_a_parent_on_a_thread_of_its_own_spawns_through_the_broker(mesh: TaskMesh, parent: type[Parent]) -> None:
    task_id = await parent((2,)).schedule()
    resources = Resources()
    settings = WorkerSettings(size=parent.size, max_concurrent_tasks=1, grace=timedelta(0))
    # Large children are executed by the worker of the large parent, and their end is not recorded here.
    async with executing(parent.size, resources, asyncio.new_event_loop) as thread:
        assert thread is not None
        worker = Worker(
            mesh.connection, mesh.namespace, mesh.registry, resources.injector, settings, invoke=thread.invoke
        )
        running = asyncio.create_task(worker.run())
        await wait_until(lambda: spawned.groups, description="it has spawned its group", timeout=20)
        worker.stop()
        async with asyncio.timeout(END_SECONDS):
            await running
    assert spawned.groups == [f"{task_id}-0"]
    assert (await part_of(mesh, f"{task_id}-0")).stored
    record = await record_of(mesh, f"{task_id}-0")
    assert record is not None
    assert record.parent == task_id


async def outcomes_of(mesh: TaskMesh, *messages: tuple[dict[str, str], bytes]) -> list[tuple[str, str, Outcome]]:
    found: list[tuple[str, str, Outcome]] = []
    await mesh.publish_by_hand(*messages, size=Size.LARGE)
    worker = mesh.worker(
        registry=TaskRegistry(),
        size=Size.LARGE,
        on_outcome=lambda *outcome: found.append(outcome),
        unknown_delay=timedelta(minutes=5),
        burst=True,
    )
    async with asyncio.timeout(END_SECONDS):
        await worker.run()
    return [each for each in found if each[0] == "diracx:StoreChildren"]


def storing(place: str, **more: str) -> tuple[dict[str, str], bytes]:
    """A message that has a worker store the children of a part."""
    return {"Task-Name": "diracx:StoreChildren", "Task-Id": "a-part", "Task-Part": place} | more, b"{}"


async def test_a_worker_acks_the_message_of_a_part_whose_children_are_stored(mesh: TaskMesh) -> None:
    group = await mesh.broker.spawn([Child(0)], Child(1))
    found = await outcomes_of(mesh, storing(f"{group}:0", **{"Task-Id": part_id(group, 0)}))
    assert found == [("diracx:StoreChildren", part_id(group, 0), Succeeded())]
    assert await in_queues(mesh) == ids(group, 1)


@pytest.mark.parametrize(
    ("place", "outcome"),
    [
        ("gone:0", Discarded("its group has expired")),
        ("no place", Dead("malformed: Task-Part: 'no place' is no <group>:<number>")),
        ("", Dead("malformed: Task-Part: '' is no <group>:<number>")),
    ],
)
async def test_a_message_of_a_part_that_is_not_there_is_settled(mesh: TaskMesh, place: str, outcome: Outcome) -> None:
    found = await outcomes_of(mesh, storing(place))
    assert found == [("diracx:StoreChildren", "a-part", outcome)]
    assert await mesh.waiting() == 0
    assert len(await mesh.dead_letters()) == isinstance(outcome, Dead)


async def test_a_part_that_cannot_be_read_is_a_dead_letter(mesh: TaskMesh) -> None:
    await mesh.connection.request(mesh.namespace.group_subject("odd"), b"[]")
    await mesh.connection.request(mesh.namespace.group_part_subject("odd", 0), b"[]")
    ((_, _, outcome),) = await outcomes_of(mesh, storing("odd:0"))
    assert isinstance(outcome, Dead)
    assert outcome.reason.startswith(f"malformed: the record {mesh.namespace.group_subject('odd')} cannot be read: ")


async def test_a_newer_format_of_that_message_waits_for_a_newer_worker(mesh: TaskMesh) -> None:
    ((_, _, outcome),) = await outcomes_of(mesh, storing("gone:0", **{"Task-Version": "99"}))
    assert "is newer than this worker" in str(outcome)
    assert await mesh.waiting() == 1
