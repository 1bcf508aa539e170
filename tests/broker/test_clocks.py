"""Machines whose clock is hours off the server's: the server's clock decides, and is what is stored and shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.clock import utc_now
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.operations.locks import LockReader
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.times import from_rfc3339, to_rfc3339
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.clock import LaterServerClock
from support.recording_tasks import Record, ran, running
from support.scheduling import Delayed, SchedulingMesh

TWO_HOURS = timedelta(hours=2)
TEN_MINUTES = timedelta(minutes=10)
NEAR = timedelta(minutes=2)
"""More than a test takes, and far less than the clocks are apart."""

both_ways = pytest.mark.parametrize("later", [TWO_HOURS, -TWO_HOURS], ids=["behind", "ahead"])
"""How much later it is on the server; the machine is behind, or ahead."""


@pytest.fixture
async def apart(server: EmbeddedServer, namespace: str, later: timedelta) -> AsyncIterator[SchedulingMesh]:
    """A mesh on a machine whose server has another time."""
    recording_tasks.reset()
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        mesh.connection.clock = LaterServerClock(later)
        await mesh.state()  # its answer has the time
        yield mesh
        await mesh.remove()


class InTenMinutes(RetryPolicyBase):
    def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
        return datetime.now(UTC) + TEN_MINUTES


class FromNow(TaskScheduleBase):
    def next_occurrence(self) -> datetime:  # type: ignore[override]
        return datetime.now(UTC) + TEN_MINUTES


class Locked(recording_tasks.Wait):
    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.n)]


class Fails(BaseTask):
    size = Size.SMALL
    dlq_eligible = True

    async def execute(self) -> None:
        raise ValueError("no")


class FailsForNow(Fails):
    retry_policy = InTenMinutes()


class EveryFive(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(5)

    async def execute(self) -> None:
        """Nothing."""


class AskedNow(EveryFive):
    default_schedule: ClassVar[TaskScheduleBase] = FromNow()


def is_now(moment: datetime, later: timedelta) -> bool:
    """Whether it is now, by the server."""
    return abs(moment - (utc_now() + later)) < NEAR


@both_ways
async def test_what_has_expired_is_decided_by_the_server(apart: SchedulingMesh, later: timedelta) -> None:
    apart.register(Record)
    for number, left in ((1, -TEN_MINUTES), (2, TEN_MINUTES)):
        expires = to_rfc3339(utc_now() + later + left)
        headers = {"Task-Name": "test:Record", "Task-Expires": expires}
        await apart.publish_by_hand((headers, msgspec.json.encode({"n": number})))
    await apart.burst()
    assert ran == [2]


@both_ways
async def test_a_retry_and_its_failure_have_the_time_of_the_server(
    apart: SchedulingMesh, later: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    apart.register(FailsForNow)
    await apart.broker.submit(FailsForNow())
    await apart.burst()
    (key,) = await apart.attempts.keys()
    entry = await apart.attempts.read(key)
    assert entry is not None
    record = msgspec.json.decode(entry.value, type=AttemptRecord)
    assert record.not_before is not None
    assert is_now(record.not_before - TEN_MINUTES, later)
    assert record.last_failure is not None
    assert is_now(record.last_failure.at, later)
    (line,) = [message for message in caplog.messages if "will retry" in message]
    assert 500 < float(line.partition(" in ")[2].partition(" s: ")[0]) <= 600


@both_ways
async def test_a_dead_letter_died_and_a_lock_is_held_since_a_time_of_the_server(
    apart: SchedulingMesh, later: timedelta
) -> None:
    apart.register(Fails, Locked)
    await apart.broker.submit(Fails())
    async with apart.working():
        await apart.broker.submit(Locked(7))
        await wait_until(lambda: running, description="it runs")
        (lock,) = await LockReader(apart.connection, apart.namespace).all()
        recording_tasks.go.set()
    assert is_now(lock.holders[0].since, later)
    (letter,) = await apart.dead_letters()
    assert is_now(from_rfc3339(letter.headers["Dead-At"]), later)


@both_ways
async def test_a_task_for_later_is_held_until_its_time_by_the_server(apart: SchedulingMesh, later: timedelta) -> None:
    apart.register(Delayed)
    now = utc_now() + later
    await apart.broker.submit(Delayed(1), at_time=now - TEN_MINUTES)
    await apart.broker.submit(Delayed(2), at_time=now + TEN_MINUTES)
    (sent,) = await apart.stored(apart.namespace.tasks_stream)
    assert msgspec.json.decode(sent.body) == {"number": 1}
    assert is_now(from_rfc3339(sent.headers["Task-Submitted"]), later)


@both_ways
async def test_occurrences_are_planned_by_the_time_of_the_server(apart: SchedulingMesh, later: timedelta) -> None:
    apart.register(EveryFive, AskedNow)
    async with apart.scheduling() as scheduler:
        await wait_until(lambda: scheduler.published > 1, description="both are supplied")
        states = [await apart.schedule_state(name) for name in ("EveryFive", "AskedNow")]
        assert scheduler.next_occurrence is not None
        assert is_now(scheduler.next_occurrence, later)
    often, asked = states
    assert often is not None
    assert all(is_now(due, later) for due in often.pending)
    assert asked is not None
    (due,) = asked.pending
    assert is_now(due - TEN_MINUTES, later)
