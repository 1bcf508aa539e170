"""Tasks that write down when they were inside their locks, for workers in processes of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ExclusiveRWLock, MutexLock, RateLimiter, SharedRWLock
from diracx.tasks.plumbing.registry import TaskRegistry

JOURNAL_VARIABLE = "LOCK_TASKS_JOURNAL"
TTL_MS = 3_000
KINDS = {"mutex": MutexLock, "writer": ExclusiveRWLock, "reader": SharedRWLock}


def note(*words: object) -> None:
    """One line in the journal, with the time of a clock that all processes share; written in one piece."""
    line = " ".join(map(str, (time.monotonic_ns(), os.getpid(), *words)))
    descriptor = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Inside(BaseTask):
    """Notes when it enters and leaves its lock."""

    kind: str
    key: int
    number: int
    seconds: float = 0.01

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [KINDS[self.kind](JOB, self.key, ttl_ms=TTL_MS)]

    async def execute(self, **kwargs: Any) -> None:
        note("enters", self.kind, self.key, self.number)
        await asyncio.sleep(self.seconds)
        note("leaves", self.kind, self.key, self.number)


@dataclasses.dataclass
class Crowded(BaseTask):
    """One of many that want one lock."""

    kind: str
    number: int

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        if self.kind == "rate":
            return [RateLimiter(JOB, "crowd", limit=10, window_seconds=1)]
        return [MutexLock(JOB, "crowd")]

    async def execute(self, **kwargs: Any) -> None:
        note("crowded", self.kind, self.number)


@dataclasses.dataclass
class Free(BaseTask):
    """Wants no lock."""

    number: int

    size = Size.SMALL
    priority = Priority.NORMAL

    async def execute(self, **kwargs: Any) -> None:
        note("free", self.number)


def registry() -> TaskRegistry:
    """These tasks, as if they were installed."""
    tasks = TaskRegistry()
    for kind in (Inside, Crowded, Free):
        tasks.add(f"locks:{kind.__name__}", kind)
    return tasks


@dataclasses.dataclass(frozen=True)
class Visit:
    """One stay inside a lock."""

    kind: str
    key: str
    number: str
    process: str
    entered: int
    left: int


def lines_of(journal: Path) -> list[str]:
    """What was written so far."""
    return journal.read_text().splitlines()


def visits(lines: Iterable[str], killed: dict[str, int]) -> list[Visit]:
    """The visits of a journal, by key and time; one that was cut off ended when its process was killed."""
    open_: dict[tuple[str, ...], int] = {}
    found = []
    for line in lines:
        at, process, what, *who = line.split()
        if what == "enters":
            open_[process, *who] = int(at)
        elif what == "leaves":
            entered = open_.pop((process, *who))
            found.append(Visit(who[0], who[1], who[2], process, entered, int(at)))
    for (process, kind, key, number), entered in open_.items():
        found.append(Visit(kind, key, number, process, entered, killed[process]))
    return sorted(found, key=lambda visit: (visit.key, visit.entered))


def meetings(stays: list[Visit]) -> list[tuple[Visit, Visit]]:
    """Those who were inside one key at one time."""
    met = []
    for at, visit in enumerate(stays):
        for other in stays[at + 1 :]:
            if other.key != visit.key or other.entered >= visit.left:
                break
            met.append((visit, other))
    return met
