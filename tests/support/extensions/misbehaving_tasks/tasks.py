"""Tasks that misbehave, of the size that `MISBEHAVING_SIZE` names, and their neighbours, which do not."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.depends import Depends
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import NoRetry, RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds
from diracx.tasks.plumbing.submitter import current_task_id

from . import endings, overruns
from .acts import ACTS, Refused

__all__ = ["endings", "overruns"]  # importing them lists their acts

FOLDER = Path(os.environ["MISBEHAVING_FOLDER"])
SIZE = Size(os.environ.get("MISBEHAVING_SIZE", "small"))
TIMEOUT_SECONDS = 0.5
INTERVAL_SECONDS = 5

ERRORS: dict[str, Callable[[], BaseException]] = {
    error.__name__: error for error in (ValueError, SystemExit, KeyboardInterrupt, Refused, asyncio.CancelledError)
}


def note(line: str) -> None:
    """Append one line to the journal; it is written before this returns, whatever happens next."""
    with open(FOLDER / "journal", "a") as journal:
        journal.write(f"{line}\n")


class Once(RetryPolicyBase):
    """One retry, at once."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) if attempt < 1 else None


@dataclasses.dataclass
class Unruly(BaseTask):
    """Does what its act says; retried once."""

    act: str

    size = SIZE
    retry_policy: ClassVar[RetryPolicyBase] = Once()
    dlq_eligible = True

    async def execute(self) -> None:
        note(f"begin {current_task_id.get()}")
        await ACTS[self.act]()
        note(f"end {current_task_id.get()}")


class Timed(Unruly):
    timeout_seconds = TIMEOUT_SECONDS


class TimedOnce(Timed):
    retry_policy = NoRetry()


class Untold(Unruly):
    """Is dropped when it has failed."""

    retry_policy = NoRetry()
    dlq_eligible = False


class Guarded(Unruly):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.act)]


@dataclasses.dataclass
class Scripted(BaseTask):
    """Does one act after the other. It goes on whatever a step raises if the step begins with `?`."""

    steps: list[str]

    size = SIZE
    retry_policy: ClassVar[RetryPolicyBase] = Once()
    dlq_eligible = True

    async def execute(self) -> None:
        for step in self.steps:
            try:
                await ACTS[step.removeprefix("?")]()
            except BaseException:
                if not step.startswith("?"):
                    raise


class ScriptedTimed(Scripted):
    timeout_seconds = TIMEOUT_SECONDS


class ScriptedGuarded(Scripted):
    @property
    def execution_locks(self) -> list[BaseLock]:
        # A killed server may bring a released lock back, which lasts its time then.
        return [MutexLock(JOB, "scripted", ttl_ms=3000)]


class ScriptedUntold(Scripted):
    retry_policy = NoRetry()
    dlq_eligible = False


@dataclasses.dataclass
class LeavesThread(BaseTask):
    """Under a mutex, leaves a thread at its timeout. Its journal tells when the thread runs."""

    number: int

    size = SIZE
    timeout_seconds = TIMEOUT_SECONDS
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "thread", ttl_ms=3000)]

    async def execute(self) -> None:
        await asyncio.to_thread(self.work)

    def work(self) -> None:
        note(f"begin {os.getpid()} {self.number}")
        time.sleep(4 * TIMEOUT_SECONDS)
        note(f"end {os.getpid()} {self.number}")


@dataclasses.dataclass
class LocksRaise(Unruly):
    error: str = "ValueError"

    @property
    def execution_locks(self) -> list[BaseLock]:
        raise ERRORS[self.error]()


class LocksAreNone(Unruly):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return ["no lock"]  # type: ignore[list-item]


class QuestionError(Exception):
    """Tells the policy what to answer."""


class Nonsense(RetryPolicyBase):
    answers: ClassVar[dict[str, Any]] = {
        "text": "tomorrow",
        "number": 5,
        "delay": timedelta(seconds=1),
        "date": date(2100, 1, 1),
        "naive": datetime(2100, 1, 1),  # noqa: DTZ001
    }

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        answer = str(exception)
        if answer in ERRORS:
            raise ERRORS[answer]()
        value: datetime = self.answers[answer]
        return value


@dataclasses.dataclass
class PolicyFails(BaseTask):
    """Fails, and its policy answers with nonsense or raises."""

    answer: str

    size = SIZE
    retry_policy = Nonsense()
    dlq_eligible = True

    async def execute(self) -> None:
        raise QuestionError(self.answer)


class Yesterday(RetryPolicyBase):
    """Three retries, always at the same time."""

    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        note(f"asked {attempt}")
        return datetime(1970, 1, 1, tzinfo=UTC) if attempt < 3 else None


class RetriedYesterday(Unruly):
    retry_policy = Yesterday()


@dataclasses.dataclass
class FailsAtLength(BaseTask):
    """Fails so many times, each time with so much text and so deep a traceback."""

    times: int
    characters: int
    depth: int

    size = SIZE
    dlq_eligible = True

    class Policy(RetryPolicyBase):
        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            return datetime.now(UTC) if attempt + 1 < exception.args[1] else None

    retry_policy = Policy()

    async def execute(self) -> None:
        self.fail(self.depth)

    def fail(self, depth: int) -> None:
        # Two lines in turn: a traceback cuts repetitions of one line short.
        if depth % 2:
            self.fail(depth - 1)
        if depth:
            self.fail(depth - 1)
        raise ValueError("x" * self.characters, self.times)


async def closes_badly() -> AsyncIterator[list[str]]:
    """Raises at its end what the task wishes."""
    wish: list[str] = []
    try:
        yield wish
    finally:
        if wish:
            raise ERRORS[wish[0]]()


@dataclasses.dataclass
class ClosingRaises(Unruly):
    error: str = "ValueError"

    async def execute(self, wish: Annotated[list[str], Depends(closes_badly)]) -> None:  # type: ignore[override]
        wish.append(self.error)


async def opens_badly() -> AsyncIterator[None]:
    for error in (Refused("while it opens"),):
        raise error
    yield


class OpeningRaises(Unruly):
    async def execute(self, opened: Annotated[None, Depends(opens_badly)]) -> None:  # type: ignore[override]
        """Is never executed."""


@dataclasses.dataclass
class Neighbour(BaseTask):
    """Runs until its file exists, and does nothing wrong."""

    name: str

    size = SIZE
    dlq_eligible = True

    async def execute(self) -> None:
        note(f"begin {self.name}")
        while not (FOLDER / self.name.partition(" ")[0]).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        note(f"end {self.name}")


@dataclasses.dataclass
class Blocks(BaseTask):
    """Blocks its loop until its file exists."""

    name: str

    size = SIZE
    dlq_eligible = True

    async def execute(self) -> None:
        note(f"begin {self.name}")
        while not (FOLDER / self.name).exists():
            time.sleep(0.02)  # noqa: ASYNC251 - it is meant to block
        note(f"end {self.name}")


@dataclasses.dataclass
class BlocksFor(BaseTask):
    """Blocks its loop for a time."""

    seconds: float

    size = SIZE
    dlq_eligible = True

    async def execute(self) -> None:
        note(f"begin {os.getpid()}")
        time.sleep(self.seconds)  # noqa: ASYNC251
        note(f"end {os.getpid()}")


class Periodic(PeriodicBaseTask):
    """Its first run lasts until the file `release` exists."""

    size = SIZE
    default_schedule = IntervalSeconds(INTERVAL_SECONDS)

    async def execute(self) -> None:
        note("begin periodic")
        while not (FOLDER / "release").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        note("end periodic")
