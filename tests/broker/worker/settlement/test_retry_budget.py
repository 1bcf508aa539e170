"""How many retries a task has, whatever lies between its failures, and one that is due in another age."""

from __future__ import annotations

import dataclasses
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh

RETRIES = 3
BUSY_TIMES = 3
asked: list[int] = []
passed: list[str] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    asked.clear()
    passed.clear()


class AtOnce(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        asked.append(attempt)
        return datetime.now(UTC) if attempt < RETRIES else None


class AtTheEndOfTime(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        asked.append(attempt)
        return datetime.max.replace(tzinfo=UTC)


@dataclasses.dataclass
class FailsUnderLock(BaseTask):
    """Wants another lock for each execution, so that a test holds it up before each."""

    size = Size.SMALL
    retry_policy: ClassVar[RetryPolicyBase] = AtOnce()
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, len(asked))]

    async def execute(self) -> None:
        raise ValueError("always")


class Postponed(FailsUnderLock):
    retry_policy = AtTheEndOfTime()


@dataclasses.dataclass
class Passes(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        passed.append("through")


async def test_contention_between_failures_leaves_exactly_the_retries_of_the_policy(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    # At level INFO waits are logged once a second; this test counts each of them.
    caplog.set_level(logging.DEBUG, logger="diracx.tasks.worker")
    mesh.register(FailsUnderLock)
    other = LockOwner.new(task="a test", id="me", worker="here")
    holds = [await MutexLock(JOB, failures).acquire(mesh.locks, other) for failures in range(RETRIES + 1)]
    await FailsUnderLock().schedule()
    async with mesh.working(lock_retry_delay=timedelta(seconds=0.02)):
        for failures, hold in enumerate(holds):
            busy = f"mutex.job.{failures} is held by a test me"
            await wait_until(
                lambda busy=busy: caplog.text.count(busy) >= BUSY_TIMES,  # type: ignore[misc]
                description=f"{busy}, {BUSY_TIMES} times",
            )
            assert asked == list(range(failures))
            await hold.release()
        await wait_until(lambda: _nothing_waits(mesh), description="it has ended")
    assert asked == [0, 1, 2, 3]
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Executions"] == "4"
    assert len(json.loads(letter.headers["Dead-Errors"])) == RETRIES + 1


async def test_a_retry_beyond_what_the_server_can_count_to_does_not_come_back_all_the_time(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(Postponed, Passes)
    await Postponed().schedule()
    async with mesh.working() as worker:
        await wait_until(lambda: _recorded(mesh), description="its failure is recorded")
        for rounds in range(1, 20):
            await Passes().schedule()
            await wait_until(lambda n=rounds: len(passed) == n, description="another task passes")  # type: ignore[misc]
        assert worker.processed <= 1 + len(passed), "the postponed one was delivered once"
    assert asked == [0]


async def _nothing_waits(mesh: TaskMesh) -> bool:
    return await mesh.waiting() == 0


async def _recorded(mesh: TaskMesh) -> bool:
    return bool(await mesh.attempts.keys())
