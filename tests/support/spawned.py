"""Tasks that spawn and are spawned, and what the server holds of their groups."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.depends import CallbackSpawner
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.groups.records import GroupRecord, PartRecord
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.submitter import current_parent, current_task_id
from support.mesh import TaskMesh

T = TypeVar("T")

groups: list[str] = []
"""The groups that `Parent` and its kin got, in order; a test clears it."""


@dataclasses.dataclass
class Child(BaseTask):
    n: int
    text: str = ""
    size = Size.LARGE

    async def execute(self) -> None: ...


class UrgentChild(Child):
    priority = Priority.REALTIME
    size = Size.MEDIUM


@dataclasses.dataclass
class After(BaseTask):
    note: str = ""
    size = Size.LARGE

    async def execute(self) -> None: ...


@dataclasses.dataclass
class Parent(BaseTask):
    """Spawns groups of so many children, one after another, and fails `fails` times after that."""

    children: tuple[int, ...]
    fails: int = 0
    note: str = ""
    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=3)

    async def execute(self, spawn_with_callback: CallbackSpawner) -> list[str]:
        spawned = [await spawn_with_callback(children(number), After(self.note)) for number in self.children]
        groups.extend(spawned)
        if len(groups) <= self.fails * len(self.children):
            raise ValueError("once more")
        return spawned


class MediumParent(Parent):
    size = Size.MEDIUM


class LargeParent(Parent):
    size = Size.LARGE


ALL = (Child, UrgentChild, After, Parent, MediumParent, LargeParent)


def children(number: int, text: str = "") -> list[Child]:
    """So many children, numbered from 0."""
    return [Child(n, text) for n in range(number)]


async def as_parent(spawn: Callable[[], Awaitable[T]], task_id: str = "0192") -> T:
    """Spawn as an execution of a task does, with nothing remembered of earlier ones."""

    async def execute() -> T:
        current_task_id.set(task_id)
        current_parent.set(Execution())
        return await spawn()

    return await asyncio.create_task(execute())


def registry() -> TaskRegistry:
    """A registry with all tasks of this module, as `test:<ClassName>`."""
    tasks = TaskRegistry()
    for task in ALL:
        tasks.add(f"test:{task.__name__}", task)
    return tasks


async def record_of(mesh: TaskMesh, group: str) -> GroupRecord | None:
    """The record of a group."""
    message = await later(mesh, mesh.namespace.group_subject(group))
    return None if message is None else msgspec.json.decode(message.body, type=GroupRecord)


async def part_of(mesh: TaskMesh, group: str, number: int = 0) -> PartRecord:
    """The record of a part of a group, which must be there."""
    message = await later(mesh, mesh.namespace.group_part_subject(group, number))
    assert message is not None
    return msgspec.json.decode(message.body, type=PartRecord)


async def later(mesh: TaskMesh, subject: str) -> StoredMessage | None:
    """The message with this subject in the stream of later tasks."""
    return await read_message(mesh.connection, mesh.namespace.later_stream, last_by_subj=subject)


async def in_queues(mesh: TaskMesh) -> list[str]:
    """The ids of what is in the queues, the oldest first."""
    return [message.headers["Task-Id"] for message in await mesh.stored(mesh.namespace.tasks_stream)]


def ids(group: str, number: int, first: int = 0) -> list[str]:
    """The ids of so many children of a group."""
    return [f"{group}-{index}" for index in range(first, first + number)]
