"""Children that end as they are told, a callback that notes what it saw, and steps of a test with them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import ChildOutcome, GroupOutcomes
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.records import child_id
from diracx.tasks.plumbing.wire.ending import Ending, Status
from diracx.tasks.testing import wait_until
from support.groups import StoredGroup
from support.mesh import TaskMesh


@dataclasses.dataclass
class Child(BaseTask):
    """Succeeds, or fails for good."""

    fails: bool = False

    size = Size.SMALL

    async def execute(self) -> None:
        if self.fails:
            raise ValueError("it was told to")


@dataclasses.dataclass
class Mortal(Child):
    """Becomes a dead letter."""

    dlq_eligible = True


@dataclasses.dataclass
class After(BaseTask):
    """The callback."""

    size = Size.SMALL

    async def execute(self, outcomes: GroupOutcomes) -> None:
        called.append((outcomes.group_id, [each async for each in outcomes]))


called: list[tuple[str, list[ChildOutcome]]] = []
"""The group of each callback that ran, and the outcomes that it saw."""


async def after_callback(mesh: TaskMesh) -> list[ChildOutcome]:
    """Execute the callback that has been released, and return the outcomes that it saw, once."""

    async def ran() -> bool:
        await mesh.burst()
        return bool(called)

    await wait_until(ran, description="the callback ran")
    ((_, outcomes),) = called
    return outcomes


async def completed(group: StoredGroup, completions: GroupCompletions, *indexes: int, value: Any = None) -> None:
    """Record these children as succeeded."""
    endings = [(index, Ending(child_id(group.id, index), "test:Child", Status.SUCCEEDED, value)) for index in indexes]
    await asyncio.gather(
        *(completions.record(f"{group.id}:{index}", ending, keeps_value=True) for index, ending in endings)
    )


async def delayed(mesh: TaskMesh) -> int:
    """How many messages wait for their time."""
    return len(await mesh.stored(mesh.namespace.later_stream, f"{mesh.namespace.name}.delayed."))
