"""Schedule states that cannot be read, and other messages on their subjects."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.stream_messages import purge_subject, read_message
from diracx.tasks.plumbing.scheduler.instances import Instance
from diracx.tasks.plumbing.scheduler.planning import Rule
from diracx.tasks.plumbing.scheduler.reconciler import ScheduleReconciler
from diracx.tasks.plumbing.scheduler.state import ScheduleKey
from diracx.tasks.testing import wait_until
from support.scheduling import Hourly, SchedulingMesh, Ticks


async def more_than(mesh: SchedulingMesh, count: int) -> bool:
    return await mesh.waiting() > count


async def test_an_unreadable_state_is_logged_once_stays_and_blocks_no_other_schedule(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Hourly, Ticks)
    subject = mesh.namespace.state_subject("test:Hourly")
    await mesh.connection.request(subject, b"{")
    async with mesh.scheduling():
        await wait_until(lambda: more_than(mesh, 1), description="the other schedule goes on")
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert told[0].startswith(f"the state of a schedule on {subject} cannot be read")
    message = await read_message(mesh.connection, mesh.namespace.later_stream, last_by_subj=subject)
    assert message is not None
    assert message.body == b"{"


async def test_markers_of_unfinished_replays_are_not_read_as_states(
    mesh: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Ticks)
    await mesh.connection.request(mesh.namespace.replay_subject(7, 1_795_511_232_712_739), b"")
    async with mesh.scheduling():
        await wait_until(lambda: more_than(mesh, 1), description="the schedule goes on")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_schedule_whose_unreadable_state_was_purged_starts_anew(mesh: SchedulingMesh) -> None:
    clock = [datetime.now(UTC)]
    subject = mesh.namespace.state_subject("test:Hourly")
    rule = Rule(Hourly.default_schedule, enabled=True)
    hourly = Instance(ScheduleKey("test:Hourly"), rule, Priority.NORMAL, Size.SMALL, b"{}")
    await mesh.connection.request(subject, b"{")
    reconciler = ScheduleReconciler(mesh.store, timedelta(seconds=30), "a test", now=lambda: clock[0])
    await reconciler.load()
    assert await reconciler.advance(reconciler.due([hourly])) == 0
    await purge_subject(mesh.connection, mesh.namespace.later_stream, subject)
    assert reconciler.due([hourly]) == []
    clock[0] += timedelta(seconds=30)
    assert await reconciler.advance(reconciler.due([hourly])) == 1
