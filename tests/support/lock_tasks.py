"""Tasks that record in a journal when they hold their locks, for workers in processes of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import (
    BaseLock,
    ConcurrencyLimiter,
    ExclusiveRWLock,
    MutexLock,
    RateLimiter,
    SharedRWLock,
)
from diracx.tasks.plumbing.registry import TaskRegistry

JOURNAL_VARIABLE = "LOCK_TASKS_JOURNAL"
CATEGORY = "locks"
TTL_MS = 3_000
LOCK_CLASSES: dict[str, Callable[..., BaseLock]] = {
    "mutex": MutexLock,
    "writer": ExclusiveRWLock,
    "reader": SharedRWLock,
}


def record(*words: object) -> None:
    """Append a line to the journal in one write, with the time of a clock that all processes share."""
    line = " ".join(map(str, (time.monotonic_ns(), os.getpid(), *words)))
    descriptor = os.open(os.environ[JOURNAL_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Inside(BaseTask):
    """Records when it enters and leaves its lock."""

    kind: str
    key: int
    number: int
    seconds: float = 0.01

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [LOCK_CLASSES[self.kind](JOB, self.key, ttl_ms=TTL_MS)]

    async def execute(self, **kwargs: Any) -> None:
        record("enters", self.kind, self.key, self.number)
        await asyncio.sleep(self.seconds)
        record("leaves", self.kind, self.key, self.number)


@dataclasses.dataclass
class Crowded(BaseTask):
    """One of many tasks that want the same lock."""

    kind: str
    number: int

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        if self.kind == "rate":
            return [RateLimiter(JOB, "crowd", limit=10, window_seconds=1)]
        return [MutexLock(JOB, "crowd")]

    async def execute(self, **kwargs: Any) -> None:
        record("crowded", self.kind, self.number)


@dataclasses.dataclass
class Free(BaseTask):
    """A task without locks."""

    number: int

    size = Size.SMALL
    priority = Priority.NORMAL

    async def execute(self, **kwargs: Any) -> None:
        record("free", self.number)


@dataclasses.dataclass
class OfVo(BaseTask):
    """A task of a VO that stays inside until `let_out` was called, under a limiter on its place if it has one."""

    vo: str
    number: int
    place: str = ""

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [ConcurrencyLimiter(JOB, self.place, limit=None)] if self.place else []

    async def execute(self, **kwargs: Any) -> None:
        record("enters", self.vo, self.place or "nowhere", self.number)
        while not _door(Path(os.environ[JOURNAL_VARIABLE])).exists():  # noqa: ASYNC110 - another process opens it
            await asyncio.sleep(0.02)
        record("leaves", self.vo, self.place or "nowhere", self.number)


@dataclasses.dataclass
class Patient(BaseTask):
    """A task of a VO that waits for a mutex of the VO; a keen one asks for it ten times a second."""

    vo: str
    keen: bool = False

    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.vo)]

    def lock_retry_delay(self, refusals: int) -> timedelta | None:
        return timedelta(seconds=0.1) if self.keen else None

    async def execute(self, **kwargs: Any) -> None:
        record("patient", self.vo)


def _door(journal: Path) -> Path:
    return journal.with_name("door")


def let_out(journal: Path) -> None:
    """Let the `OfVo` tasks end, and those that come."""
    _door(journal).touch()


KINDS: tuple[type[BaseTask], ...] = (Inside, Crowded, Free, OfVo, Patient)


def registry() -> TaskRegistry:
    """A registry with these tasks, as if they were installed."""
    tasks = TaskRegistry()
    for kind in KINDS:
        tasks.add(f"{CATEGORY}:{kind.__name__}", kind)
    return tasks


@dataclasses.dataclass(frozen=True)
class Visit:
    """The time that one task held a lock."""

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
    """The visits in a journal, by key and time. A visit without an end lasted until its process was killed."""
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


def overlaps(stays: list[Visit]) -> list[tuple[Visit, Visit]]:
    """The pairs of visits that held the same key at the same time."""
    found = []
    for at, visit in enumerate(stays):
        for other in stays[at + 1 :]:
            if other.key != visit.key or other.entered >= visit.left:
                break
            found.append((visit, other))
    return found
