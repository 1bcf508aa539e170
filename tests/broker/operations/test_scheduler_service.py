"""The health of a scheduler whose streams and buckets go: not ready, with the reason, until they are there again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.operations.scheduler_service import SchedulerHealth
from diracx.tasks.testing import wait_until
from support.scheduling import SchedulingMesh, Ticks


@pytest.fixture
async def scheduled(server: EmbeddedServer, namespace: str) -> AsyncIterator[SchedulingMesh]:
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


async def test_a_leader_without_the_stream_of_later_tasks_is_not_ready_and_tells_it_in_one_line(
    scheduled: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = scheduled
    mesh.register(Ticks)
    async with mesh.scheduling() as scheduler:
        health = SchedulerHealth(scheduler, mesh.connection)
        await wait_until(lambda: scheduler.published, description="it supplies")
        await mesh.connection.api(f"STREAM.DELETE.{mesh.namespace.later_stream}")
        await wait_until(lambda: health.why_not_ready(), description="it is not ready", timeout=60)
        assert health.why_not_live() is None
        before = scheduler.published
        await ensure(mesh.connection, assets(mesh.namespace))
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready", timeout=60)
        await wait_until(lambda: scheduler.published > before, description="it supplies again", timeout=60)
    assert sum("schedules were not supplied: " in message for message in caplog.messages) <= 2


async def test_a_leader_that_ends_while_nothing_can_be_supplied_does_not_say_that_it_is(
    scheduled: SchedulingMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    mesh = scheduled
    mesh.register(Ticks)
    async with mesh.scheduling() as scheduler:
        await wait_until(lambda: scheduler.published, description="it supplies")
        await mesh.connection.api(f"STREAM.DELETE.{mesh.namespace.later_stream}")
        await wait_until(lambda: "schedules were not supplied" in caplog.text, description="it cannot", timeout=60)
    assert "schedules are supplied again" not in caplog.text
    assert "is no longer the leader" in caplog.text
    await ensure(mesh.connection, assets(mesh.namespace))


async def test_a_standby_without_the_bucket_of_locks_is_not_ready(scheduled: SchedulingMesh) -> None:
    mesh = scheduled
    await mesh.connection.api(f"STREAM.DELETE.KV_{mesh.namespace.locks_bucket}")
    async with mesh.scheduling() as scheduler:
        health = SchedulerHealth(scheduler, mesh.connection)
        why = f"bucket {mesh.namespace.locks_bucket} is missing: run `diracx-task-run setup`"
        await wait_until(lambda: health.why_not_ready() == why, description="it is not ready")
        await ensure(mesh.connection, assets(mesh.namespace))
        await wait_until(lambda: health.why_not_ready() is None, description="it is ready", timeout=60)
        await wait_until(lambda: scheduler.leads, description="it leads")
