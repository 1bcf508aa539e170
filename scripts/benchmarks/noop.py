"""A task that does nothing."""

from __future__ import annotations

import dataclasses

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.registry import TaskRegistry


@dataclasses.dataclass
class Noop(BaseTask):
    """Does nothing; has one field, as most tasks do."""

    owner_name: str

    size = Size.SMALL

    async def execute(self) -> None:
        """Do nothing."""


def registry() -> TaskRegistry:
    """A registry of this task."""
    tasks = TaskRegistry()
    tasks.add("bench:Noop", Noop)
    return tasks
