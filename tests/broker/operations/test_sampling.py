"""Samples of a mesh at work: what stands in its queues, and what became of its tasks since the sample before."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.micro import Service, ServiceStats, serving
from diracx.tasks.plumbing.operations.sampling import Sample, Sampler, WorkersSample, merged
from diracx.tasks.plumbing.operations.worker_service import advertised, worker_service
from diracx.tasks.plumbing.worker.snapshot import Counters, QueueTotals
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.mesh import TaskMesh
from support.recording_tasks import Record, RecordRealtime, Wait

SMALL = "normal-small"


class Breaks(BaseTask):
    size = Size.SMALL

    async def execute(self) -> None:
        raise ValueError("broken")


async def test_a_sample_tells_what_became_of_tasks_since_the_one_before(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Record, RecordRealtime, Breaks, Wait)
    sampler, counters = Sampler(mesh.connection, mesh.namespace), Counters()
    for n in range(3):
        await Record(n).schedule()
    await Record(3).schedule(at_time=datetime.now(UTC) + timedelta(hours=1))
    first = await sampler.sample()
    assert (first.seconds, first.leader, first.workers, first.delayed) == (0.0, False, {}, 1)
    assert len(first.queues) == 9
    assert (first.queues[SMALL].waiting, first.queues[SMALL].submitted) == (3, 0)
    assert first.queues[SMALL].oldest_seconds is not None
    async with (
        mesh.working(slots=5, counters=counters) as worker,
        advertised(worker, counters, mesh.connection, mesh.namespace),
    ):
        for task in (Breaks(), RecordRealtime(7), Wait(0)):
            await task.schedule()
        await wait_until(lambda: counters.deliveries == 5 and recording_tasks.running, description="one is left")
        second = await sampler.sample()
        third = await sampler.sample()
        recording_tasks.go.set()
    small = second.queues[SMALL]
    assert 0 < second.seconds < 60
    assert (small.waiting, small.in_flight, small.parked, small.oldest_seconds) == (0, 1, 0, None)
    assert (small.succeeded, small.dropped, small.retried, small.submitted) == (3, 1, 0, 2)
    assert sum(small.wait) == 5
    assert second.queues["realtime-small"].submitted == second.queues["realtime-small"].succeeded == 1
    assert second.workers == {"small": WorkersSample(1, 5, 1)}
    assert _happened(third) == 0, "all of it was told"
    assert merged([first, second, third]).queues[SMALL].succeeded == 3


def _happened(sample: Sample) -> int:
    return sum(queue.submitted + queue.settled + sum(queue.wait) for queue in sample.queues.values())


def a_worker(mesh: TaskMesh, totals: dict[str, QueueTotals], started: datetime) -> Service:
    data = {"slots": 4, "busy": 1, "in_hand": {}, "queues": msgspec.to_builtins(totals)}
    return Service(
        name=worker_service(mesh.namespace),
        id="host-1-small",
        version="1",
        description="A worker as it tells of itself",
        metadata={"id": "host-1-small", "size": "small"},
        endpoint="execute",
        subject="a.*.small",
        queue_group="small",
        stats=lambda: ServiceStats(data=data),
        started=started,
    )


async def test_a_worker_that_was_there_before_the_first_sample_counts_from_then_on(mesh: TaskMesh) -> None:
    sampler, totals = Sampler(mesh.connection, mesh.namespace), {SMALL: QueueTotals(succeeded=100)}
    service = a_worker(mesh, totals, datetime.now(UTC) - timedelta(hours=1))
    async with serving(mesh.connection, service):
        assert (await sampler.sample()).queues[SMALL].succeeded == 0
    await sampler.sample()  # it does not answer this time
    service = a_worker(mesh, {SMALL: QueueTotals(succeeded=130)}, service.started)
    async with serving(mesh.connection, service):
        assert (await sampler.sample()).queues[SMALL].succeeded == 30


async def test_a_worker_of_an_earlier_version_counts_nothing_and_has_its_slots(mesh: TaskMesh) -> None:
    sampler, service = Sampler(mesh.connection, mesh.namespace), a_worker(mesh, {}, datetime.now(UTC))
    async with serving(mesh.connection, service):
        samples = [await sampler.sample() for _ in range(2)]
    assert samples[1].workers == {"small": WorkersSample(1, 4, 1)}
    assert _happened(samples[1]) == 0


async def test_two_samplers_do_not_disturb_each_other(mesh: TaskMesh) -> None:
    mesh.register(Record)
    one, other = (Sampler(mesh.connection, mesh.namespace, leads=True) for _ in range(2))
    await asyncio.gather(one.sample(), other.sample())
    await Record(0).schedule()
    found = await asyncio.gather(one.sample(), other.sample())
    assert [(sample.queues[SMALL].submitted, sample.leader) for sample in found] == [(1, True)] * 2
    await mesh.burst()
