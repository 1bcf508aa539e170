"""The values of now that telemetry reads from a worker."""

from __future__ import annotations

from diracx.tasks.plumbing.observability import telemetry
from diracx.tasks.plumbing.observability.telemetry import Gauge
from diracx.tasks.plumbing.operations.worker_service import advertised
from diracx.tasks.plumbing.worker.snapshot import Counters
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.measuring import Measured, measuring
from support.mesh import TaskMesh
from support.recording_tasks import Wait


def values(measured: Measured, name: str) -> list[tuple[dict[str, str], float]]:
    """The points of a metric; none if it has none."""
    try:
        points = measured.metric(name)[1]
    except KeyError:
        return []
    return [(dict(point.attributes), point.value) for point in points]


async def test_a_worker_tells_its_slots_while_it_is_there(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Wait)
    size = {"diracx.tasks.size": "small"}
    with measuring() as measured:
        async with mesh.working(slots=5) as worker, advertised(worker, Counters(), mesh.connection, mesh.namespace):
            await mesh.broker.schedule_many([Wait(0), Wait(1)])
            await wait_until(lambda: len(recording_tasks.running) == 2, description="both run")
            assert measured.metric("diracx.tasks.worker.slots")[0] == "{slot}"
            assert values(measured, "diracx.tasks.worker.up") == [(size, 1)]
            assert values(measured, "diracx.tasks.worker.slots") == [(size, 5)]
            assert values(measured, "diracx.tasks.worker.running") == [(size, 2)]
            assert values(measured, "diracx.tasks.worker.isolated") == [(size, 0)]
            recording_tasks.go.set()
        assert values(measured, "diracx.tasks.worker.up") == []


def test_without_telemetry_nothing_is_read() -> None:
    def never() -> list[Gauge]:
        raise AssertionError

    with telemetry.observing(never):
        assert telemetry.current() is None
