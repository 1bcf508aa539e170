"""Tasks that write down what becomes of them, for tests with workers in their own process."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size

ran: list[Any] = []
"""What was executed to its end."""
running: list[int] = []
"""The `Wait` tasks that execute now."""
most_at_once: list[int] = []
"""How many of them there were, at each start."""
go = asyncio.Event()
"""Ends every `Wait`."""


def start_afresh() -> None:
    """Forget the last test; its event belongs to its loop."""
    global go
    go = asyncio.Event()
    for record in (ran, running, most_at_once):
        record.clear()


@dataclasses.dataclass
class Note(BaseTask):
    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        ran.append(self.n)


class NoteRealtime(Note):
    priority = Priority.REALTIME


class NoteBackground(Note):
    priority = Priority.BACKGROUND


@dataclasses.dataclass
class Wait(BaseTask):
    """Runs until the test says `go`."""

    n: int
    size = Size.SMALL

    async def execute(self) -> None:
        running.append(self.n)
        most_at_once.append(len(running))
        try:
            await go.wait()
        finally:
            running.remove(self.n)
        ran.append(self.n)


class WaitRealtime(Wait):
    priority = Priority.REALTIME


class WaitBackground(Wait):
    priority = Priority.BACKGROUND
