"""The tasks of a chaos run. They record each step before they take it, so that the journal of a killed process is true.

Each process appends to a journal of its own, one `write` a line:
`<event> <task id> <kind> <number> <pid> <execution> <seconds>`, the execution counted by the process, the seconds by
CLOCK_BOOTTIME. The events: `begin`; `done`; `cancelled`; `failed <attempt> <retry at>`, written by the retry policy,
with `-` where it gives no retry; `locked <key> <token>`, after `begin`; `submitted <child id>`;
`spawned <group id> <children>`; `followed <group id> <counts>`, the outcomes that a callback was given. An execution
that was cancelled and then failed has both lines: it has failed.

Some tasks misbehave, and are expected to fail or succeed by themselves: they exit, cancel themselves, stop their loop,
or leave a thread behind. None of that excuses a repeated execution of them or of another task.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Coroutine
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

from diracx.tasks.depends import CallbackSpawner, GroupOutcomes
from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, FencingToken, MutexLock
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from diracx.tasks.plumbing.submitter import current_task_id

FOLDER_VARIABLE: Final = "CHAOS_FOLDER"
SIZE_VARIABLE: Final = "CHAOS_SIZE"
RETRIES: Final = 3
LOCK_SECONDS: Final = 8.0
"""The life of a lock after its owner died; long elections outlast it."""
SPAWNS_AGAIN: Final = 0.2
"""The share of parents that fail once after they have spawned their group."""

_numbers = itertools.count(1)
_execution: ContextVar[int] = ContextVar("execution")
_latest: dict[str | None, tuple[Journaled, int]] = {}
"""The latest execution of each task in this process, by task id."""


@functools.cache
def _journal(pid: int) -> int:
    path = Path(os.environ[FOLDER_VARIABLE]) / f"{pid}.journal"
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(event: str, task: Journaled, execution: int, *more: object) -> None:
    """Append one line to the journal of this process."""
    pid = os.getpid()
    who = (current_task_id.get(), type(task).__name__, task.number, pid, execution)
    words = (event, *who, f"{boottime():.6f}", *more)
    os.write(_journal(pid), (" ".join(map(str, words)) + "\n").encode())


async def fail_a_few_times(number: int, times: int) -> None:
    """Raise ValueError so many times. A file counts them, since a process may be killed."""
    tries = Path(os.environ[FOLDER_VARIABLE]) / f"{number}.tries"
    before = tries.stat().st_size if tries.exists() else 0
    if before < times:
        with tries.open("ab") as file:
            file.write(b".")
        raise ValueError(f"failure {before + 1} of {times}")


class JournaledBackoff(RetryPolicyBase):
    """An exponential backoff that records its questions and answers."""

    backoff = ExponentialBackoff(base_delay_seconds=0.4, max_retries=RETRIES)

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        """Decide as the backoff does, and record the decision."""
        at = self.backoff.schedule_retry(attempt, exception)
        # The exception may be any: a task that misbehaves does not tell which execution raised it.
        task, execution = _latest[current_task_id.get()]
        wait = None if at is None else (at - datetime.now(UTC)).total_seconds()
        write("failed", task, execution, attempt, "-" if wait is None else f"{boottime() + wait:.6f}")
        return at


@dataclasses.dataclass
class Journaled(BaseTask):
    """Records when it began and when it ended."""

    number: int

    size = Size(os.environ.get(SIZE_VARIABLE, Size.SMALL.value))
    retry_policy: ClassVar[RetryPolicyBase] = JournaledBackoff()
    dlq_eligible = True
    always_fails: ClassVar[bool] = False

    async def execute(self) -> None:
        """Run `work` between two lines in the journal."""
        await self.journaled(self.work())

    async def journaled(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the code of the task between two lines in the journal."""
        execution = next(_numbers)
        _execution.set(execution)
        _latest[current_task_id.get()] = (self, execution)
        write("begin", self, execution)
        try:
            await work
        except asyncio.CancelledError:
            write("cancelled", self, execution)
            raise
        write("done", self, execution)

    async def work(self) -> None:
        """Do nothing; subclasses override this."""


class Quick(Journaled):
    """Succeeds at once."""


@dataclasses.dataclass
class Sleeps(Journaled):
    """Takes some time."""

    seconds: float = 0.0

    async def work(self) -> None:
        await asyncio.sleep(self.seconds)


@dataclasses.dataclass
class Recovers(Journaled):
    """Fails a few times."""

    times: int = 1

    async def work(self) -> None:
        await fail_a_few_times(self.number, self.times)


class Dies(Journaled):
    """Always fails, and becomes a dead letter."""

    always_fails = True

    async def work(self) -> None:
        raise ValueError("always")


class GivesUp(Dies):
    """Always fails, and becomes no dead letter."""

    dlq_eligible = False


class Submits(Journaled):
    """Submits another task."""

    async def work(self) -> None:
        child = await Child(self.number).schedule()
        write("submitted", self, _execution.get(), child)


class Child(Journaled):
    """Is submitted by another task."""


@dataclasses.dataclass
class Locked(Journaled):
    """Holds a mutex while it executes."""

    key: int = 0
    seconds: float = 0.0

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.key, ttl_ms=round(LOCK_SECONDS * 1000))]

    def lock_retry_delay(self, refusals: int) -> timedelta | None:
        return timedelta(seconds=0.5)

    async def execute(self, fencing_token: FencingToken) -> None:  # type: ignore[override]
        """Record the token, and stay for a while."""
        await self.journaled(self._stay(fencing_token))

    async def _stay(self, token: FencingToken) -> None:
        write("locked", self, _execution.get(), self.key, int(token))
        await asyncio.sleep(self.seconds)


class Urgent(Journaled):
    """Is due at a time, and does not wait behind the others then: how late it begins is the server's doing."""

    priority = Priority.REALTIME


@dataclasses.dataclass
class Ticks(Journaled, PeriodicBaseTask):
    """Runs each second, where there is a scheduler."""

    number: int = 0

    priority = Priority.REALTIME
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(1)

    @property
    def execution_locks(self) -> list[BaseLock]:
        # Without the mutex of the class: an owner that was killed would let its successors expire.
        return []


@dataclasses.dataclass
class Spawns(Journaled):
    """Spawns a group whose children end in every way, and sometimes fails after that, so that it spawns it again."""

    children: int = 20
    seed: int = 0

    async def execute(self, spawn_with_callback: CallbackSpawner) -> None:  # type: ignore[override]
        """Run `spawn` between two lines in the journal."""
        await self.journaled(self._spawn(spawn_with_callback))

    async def _spawn(self, spawn_with_callback: CallbackSpawner) -> None:
        choose = random.Random(self.seed)
        children = [self._child(choose) for _ in range(self.children)]
        group = await spawn_with_callback(children, Follows(self.number))
        write("spawned", self, _execution.get(), group, self.children)
        if choose.random() < SPAWNS_AGAIN:
            await fail_a_few_times(self.number, 1)

    def _child(self, choose: random.Random) -> Journaled:
        share = choose.random()
        if share < 0.5:
            return Quick(self.number)
        if share < 0.8:
            return Sleeps(self.number, round(choose.uniform(0.01, 1.0), 3))
        kinds: tuple[type[Journaled], ...] = (Dies, GivesUp, *UNRULY)
        return choose.choice(kinds)(self.number)


@dataclasses.dataclass
class Follows(Journaled):
    """Runs after a group, and records the outcomes of its children."""

    async def execute(self, outcomes: GroupOutcomes) -> None:  # type: ignore[override]
        """Count the outcomes between two lines in the journal."""
        await self.journaled(self._count(outcomes))

    async def _count(self, outcomes: GroupOutcomes) -> None:
        found = Counter([outcome.status async for outcome in outcomes])
        counts = ",".join(f"{status}={count}" for status, count in sorted(found.items()))
        write("followed", self, _execution.get(), outcomes.group_id, counts)


class RefusedError(BaseException):
    """No Exception."""


async def _raise(error: BaseException) -> None:
    await asyncio.sleep(0.01)
    raise error


class Exits(Dies):
    """A child of it exits."""

    async def work(self) -> None:
        await asyncio.gather(_raise(SystemExit(2)), asyncio.sleep(0.5))


class Interrupts(Dies):
    """Raises KeyboardInterrupt."""

    async def work(self) -> None:
        raise KeyboardInterrupt


class Refuses(Dies):
    """Raises what is no Exception."""

    async def work(self) -> None:
        raise RefusedError


class CancelsItself(Dies):
    """Cancels its asyncio task."""

    async def work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)


class FailsInGroup(Dies):
    """Has a task group with a child that fails."""

    async def work(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise(ValueError("in a child")))
            group.create_task(asyncio.sleep(60))


class LeavesThread(Dies):
    """Waits for a thread when its time is over."""

    timeout_seconds = 0.2

    async def work(self) -> None:
        await asyncio.to_thread(time.sleep, 1.5)


class StopsLoop(Journaled):
    """Stops its event loop, and succeeds."""

    async def work(self) -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)


class Blocks(Journaled):
    """Blocks its event loop for a moment."""

    async def work(self) -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - it is meant to block


UNRULY: Final[tuple[type[Journaled], ...]] = (
    Exits,
    Interrupts,
    Refuses,
    CancelsItself,
    FailsInGroup,
    LeavesThread,
    StopsLoop,
    Blocks,
)
"""The tasks that misbehave."""

KINDS: Final[tuple[type[Journaled], ...]] = (
    *(Quick, Sleeps, Recovers, Dies, GivesUp, Submits, Child, Locked, Urgent, Ticks, Spawns, Follows),
    *UNRULY,
)
