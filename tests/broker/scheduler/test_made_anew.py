"""The stream of later tasks is purged, or deleted and made anew, beside a scheduler that leads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.scheduler import scheduler as scheduler_module
from diracx.tasks.testing import wait_until
from support.scheduling import Hourly, Report, SchedulingMesh


@pytest.fixture
async def scheduled(
    server: EmbeddedServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SchedulingMesh]:
    monkeypatch.setattr(scheduler_module, "LOOK_SECONDS", 0.2)
    async with SchedulingMesh.open(server.url, namespace) as mesh:
        yield mesh
        await mesh.remove()


@pytest.mark.parametrize("way", ["purged", "deleted"])
async def test_schedules_begin_anew_soon_when_their_stream_was_emptied(
    scheduled: SchedulingMesh, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = scheduled
    mesh.register(Hourly, Report)
    later = mesh.namespace.later_stream

    async def supplied() -> bool:
        return len(await mesh.held()) >= 2  # one of each

    async with mesh.scheduling("lhcb"):
        await wait_until(supplied, description="the server holds occurrences")
        before = await mesh.held()
        if way == "purged":
            await mesh.connection.api(f"STREAM.PURGE.{later}")
        else:
            await mesh.connection.api(f"STREAM.DELETE.{later}")
            await ensure(mesh.connection, assets(mesh.namespace))
        await wait_until(supplied, description="the server holds occurrences again")
        assert await mesh.schedule_state("Hourly") is not None
        assert await mesh.schedule_state("Report", "lhcb") is not None
    assert len(before) == len(await mesh.held())
    assert any("the states of 2 schedules are gone, and these begin anew: " in line for line in caplog.messages)
