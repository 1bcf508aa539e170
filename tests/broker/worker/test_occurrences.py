"""Occurrences of periodic tasks that wait: the one that is due runs, and all older ones give way with a line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import PeriodicBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.execution.job import Outcome, Succeeded
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from diracx.tasks.testing import wait_until
from support.scheduling import SchedulingMesh

INTERVAL = 5
"""The shortest after which an occurrence gives way to the next."""
MISSED = 3
go: asyncio.Event
executed: list[str] = []
done: list[tuple[str, datetime]] = []
"""The task of each occurrence that succeeded, and when it was due."""


class Slow(PeriodicBaseTask):
    """Runs until the test sets `go`."""

    size = Size.MEDIUM
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(INTERVAL)

    async def execute(self) -> None:
        executed.append(type(self).__name__)
        await go.wait()


class Exclusive(Slow):
    size = Size.SMALL

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, 1)]


class AfterTheNext(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) + timedelta(seconds=INTERVAL + 1)


class Failing(Slow):
    size = Size.SMALL
    retry_policy = AfterTheNext()

    async def execute(self) -> None:
        executed.append(type(self).__name__)
        raise ValueError("no")


@pytest.fixture
async def scheduled(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    global go
    go = asyncio.Event()
    executed.clear()
    done.clear()
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


def note(name: str, task_id: str, outcome: Outcome) -> None:
    if isinstance(outcome, Succeeded):
        due = datetime.strptime(task_id.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        done.append((name, due))


@pytest.mark.slow
async def test_after_a_long_run_at_most_the_occurrence_runs_that_is_due(
    scheduled: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = scheduled
    mesh.register(Slow, Exclusive, Failing)
    dropped = [f"dropped test:{kind}" for kind in ("Slow", "Exclusive", "Failing")]
    async with (
        mesh.working(size=Size.MEDIUM, slots=1, on_outcome=note),
        mesh.working(on_outcome=note),
        mesh.scheduling(),
    ):
        # One occurrence of each runs. The others wait behind its slot, its mutex or their own retry.
        await wait_until(
            lambda: executed.count("Failing") > MISSED,
            description="several occurrences are missed",
            timeout=(MISSED + 2) * INTERVAL,
        )
        released = datetime.now(UTC)
        go.set()
        await wait_until(
            lambda: all(line in caplog.text for line in dropped), description="each kind gave way with a line"
        )
        await wait_until(
            lambda: {name for name, due in done if due > released} == {"test:Slow", "test:Exclusive"},
            description="the next occurrences run",
            timeout=2 * INTERVAL,
        )
    for kind in ("test:Slow", "test:Exclusive"):
        late = [due for name, due in done if name == kind and due <= released]
        assert len(late) <= 2, "the long run, and the occurrence that was due"
        assert all(due >= released - timedelta(seconds=INTERVAL) for due in late[1:])
    assert caplog.text.count("before it was done; it failed 1 times, the last with ValueError: no") >= MISSED - 1
