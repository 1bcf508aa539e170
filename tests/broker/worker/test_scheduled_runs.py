"""How the latest run of each schedule has ended, as workers note it and operators read it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask, PeriodicBaseTask
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.operations.schedules import read_runs
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.scheduler.state import ScheduleKey, occurrence_id
from diracx.tasks.plumbing.schedules import IntervalSeconds, TaskScheduleBase
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.occurrence import RunRecord, run_key
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh


class Runs(PeriodicBaseTask):
    size = Size.SMALL
    default_schedule: ClassVar[TaskScheduleBase] = IntervalSeconds(3600)

    async def execute(self) -> None:
        """Nothing."""


class Fails(Runs):
    async def execute(self) -> None:
        raise ValueError("no")


class Retries(Fails):
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=1)


class Dies(Fails):
    dlq_eligible = True


class Plain(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        """Nothing."""


async def hand_over(mesh: TaskMesh, task: str, ago: timedelta, expires: timedelta | None = None) -> RunRecord | None:
    """Have an occurrence fall due, as the server publishes it, and carry it to its end."""
    key, due = ScheduleKey(f"test:{task}"), datetime.now(UTC).replace(microsecond=0) - ago
    envelope = Envelope(
        name=key.task, id=occurrence_id(key, due), due=due, expires=None if expires is None else due + expires
    )
    subject = mesh.namespace.due_subject(Priority.NORMAL, Size.SMALL)
    await publish(mesh.connection, subject, b"{}", envelope.to_headers())
    await wait_until(lambda: _waits(mesh), description="the occurrence is in its queue")
    await mesh.burst()
    found = await read_runs(mesh.connection, mesh.namespace, [key, ScheduleKey("test:Other")])
    assert set(found) <= {key}
    return found.get(key)


async def _waits(mesh: TaskMesh) -> bool:
    return bool(await mesh.stored(mesh.namespace.tasks_stream))


@pytest.mark.parametrize(
    ("task", "outcome", "error"),
    [
        ("Runs", "succeeded", None),
        ("Fails", "failed", "ValueError"),
        ("Retries", "retry", "ValueError"),
        ("Dies", "dead", "ValueError"),
    ],
)
async def test_the_end_of_a_scheduled_run_is_noted(mesh: TaskMesh, task: str, outcome: str, error: str | None) -> None:
    mesh.register(Runs, Fails, Retries, Dies)
    mesh.allows_residue = True
    ran = await hand_over(mesh, task, timedelta(seconds=2))
    assert ran is not None
    assert (ran.outcome, ran.error) == (outcome, error)
    assert 0 <= ran.duration < 30
    assert timedelta(0) <= ran.ended - ran.due < timedelta(minutes=1)
    assert "-small-" in ran.worker


async def test_an_occurrence_that_gave_way_is_noted_as_expired_and_a_later_end_replaces_it(mesh: TaskMesh) -> None:
    mesh.register(Runs)
    expired = await hand_over(mesh, "Runs", timedelta(seconds=9), expires=timedelta(seconds=5))
    later = await hand_over(mesh, "Runs", timedelta(seconds=1))
    assert [each and (each.outcome, each.error) for each in (expired, later)] == [
        ("expired", None),
        ("succeeded", None),
    ]


async def test_nothing_is_noted_of_a_task_that_no_schedule_has_submitted(mesh: TaskMesh) -> None:
    mesh.register(Plain)
    await Plain().schedule(at_time=datetime.now(UTC))
    await wait_until(lambda: _waits(mesh), description="the task is in its queue")
    await mesh.burst()
    assert await mesh.stored(f"KV_{mesh.namespace.results_bucket}") == []


async def test_a_run_that_cannot_be_noted_has_ended_all_the_same(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Runs)
    await mesh.edit_stream(f"KV_{mesh.namespace.results_bucket}", max_bytes=1)
    assert await hand_over(mesh, "Runs", timedelta(seconds=2)) is None
    assert await mesh.stored(mesh.namespace.tasks_stream) == []
    (line,) = [line for line in caplog.messages if "not noted" in line]
    assert line.startswith("the ends of scheduled runs are not noted: ")


async def test_a_record_that_cannot_be_read_is_not_known(mesh: TaskMesh) -> None:
    bucket = Bucket(mesh.connection, mesh.namespace.results_bucket)
    for value in (b"", b"{", b'{"due": 1}'):
        await bucket.put(run_key("test:Runs"), value, timedelta(minutes=1))
        assert await read_runs(mesh.connection, mesh.namespace, [ScheduleKey("test:Runs")]) == {}
