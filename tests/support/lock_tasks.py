"""Tasks that record when they held their locks, for workers in processes of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, ExclusiveRWLock, MutexLock, RateLimiter, SharedRWLock
from diracx.tasks.plumbing.registry import TaskRegistry

JOURNAL_VARIABLE = "LOCK_TASKS_JOURNAL"
CATEGORY = "locks"
TTL_MS = 3_000
LOCK_CLASSES: dict[str, Callable[..., BaseLock]] = {
    "mutex": MutexLock,
    "writer": ExclusiveRWLock,
    "reader": SharedRWLock,
}


def note(*words: object) -> None:
    """Append one line to the journal in one write: monotonic nanoseconds, which all processes share, pid, words."""
    line = " ".join(map(str, (time.monotonic_ns(), os.getpid(), *words)))
    descriptor = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Inside(BaseTask):
    """Records when it took its lock and when it is about to release it."""

    kind: str
    key: int
    number: int
    seconds: float = 0.01

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [LOCK_CLASSES[self.kind](JOB, self.key, ttl_ms=TTL_MS)]

    async def execute(self, **kwargs: Any) -> None:
        note("enters", self.kind, self.key, self.number)
        await asyncio.sleep(self.seconds)
        note("leaves", self.kind, self.key, self.number)


@dataclasses.dataclass
class Crowded(BaseTask):
    """One of many tasks that need one lock."""

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
    """Needs no lock."""

    number: int

    size = Size.SMALL
    priority = Priority.NORMAL

    async def execute(self, **kwargs: Any) -> None:
        note("free", self.number)


KINDS: tuple[type[BaseTask], ...] = (Inside, Crowded, Free)


def registry() -> TaskRegistry:
    """A registry of these tasks, under the names that they are installed with."""
    tasks = TaskRegistry()
    for kind in KINDS:
        tasks.add(f"{CATEGORY}:{kind.__name__}", kind)
    return tasks


@dataclasses.dataclass(frozen=True)
class Visit:
    """The time from `entered` to `left` during which one task held a lock."""

    kind: str
    key: str
    number: str
    process: str
    entered: int
    left: int


def lines_of(journal: Path) -> list[str]:
    """The lines of the journal so far."""
    return journal.read_text().splitlines()


def visits(lines: Iterable[str], killed: dict[str, int]) -> list[Visit]:
    """The visits of a journal, by key and time.

    Args:
        killed: When each killed process ended, by pid; its unfinished visits ended then.
    """
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
    """The pairs of visits that overlap at one key."""
    met = []
    for at, visit in enumerate(stays):
        for other in stays[at + 1 :]:
            if other.key != visit.key or other.entered >= visit.left:
                break
            met.append((visit, other))
    return met
