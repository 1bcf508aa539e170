"""A task that spawns a group, its children, and the callback that counts their outcomes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections import Counter
from pathlib import Path

from diracx.tasks.depends import CallbackSpawner, GroupOutcomes
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size

FOLDER = Path(os.environ["FAN_TASKS_FOLDER"])


def note(event: str) -> None:
    """Append one line to the journal, in one write."""
    with open(FOLDER / "journal", "ab", buffering=0) as journal:
        journal.write(f"{event}\n".encode())


@dataclasses.dataclass
class Parent(BaseTask):
    """Spawns its children; the first process in which it does waits to be killed."""

    children: int

    size = Size.SMALL

    async def execute(self, spawn_with_callback: CallbackSpawner) -> None:
        first = not (FOLDER / "spawned").exists()
        group = await spawn_with_callback([Part(number) for number in range(self.children)], Gathers())
        (FOLDER / "spawned").touch()
        note(f"spawned {group} {os.getpid()}")
        if first:
            await asyncio.sleep(600)


@dataclasses.dataclass
class Part(BaseTask):
    """Runs, or fails for good if its number ends in 7."""

    number: int

    size = Size.SMALL

    async def execute(self) -> None:
        note(f"ran {self.number} {os.getpid()}")
        if self.number % 10 == 7:
            raise ValueError(f"no. {self.number}")


class Gathers(BaseTask):
    """Counts the outcomes."""

    size = Size.SMALL

    async def execute(self, outcomes: GroupOutcomes) -> None:
        note(f"gathers {os.getpid()}")
        indices, counts = set(), Counter[str]()
        async for outcome in outcomes:
            indices.add(outcome.index)
            counts[str(outcome.status)] += 1
        note(f"gathered {len(indices)} {sorted(counts.items())}")
