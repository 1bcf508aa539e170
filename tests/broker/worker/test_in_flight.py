"""A worker that stops, or whose process ends, while messages are in flight."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import cast

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.worker import Worker
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore
from diracx.tasks.plumbing.worker.in_flight import InFlight
from diracx.tasks.plumbing.worker.isolation import IsolationGate
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.plumbing.worker.processing import Processor
from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.clock import ManualClock
from support.deliveries import first_delivery, leave_crashes
from support.mesh import TaskMesh
from support.mesh import running as running_worker
from support.recording_tasks import Record, Wait, ran, running

ALL = 20
stopping: list[Worker] = []


@dataclasses.dataclass
class StopsItsWorker(BaseTask):
    """Its neighbours came with it, and have yet to begin."""

    size = Size.SMALL

    async def execute(self) -> None:
        ran.append("stops")
        for worker in stopping:
            worker.stop_now()


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()
    stopping.clear()


async def test_what_has_not_begun_when_its_worker_stops_is_given_back_at_once_and_uncounted(mesh: TaskMesh) -> None:
    mesh.register(StopsItsWorker, Record)
    await mesh.broker.schedule_many([StopsItsWorker(), *(Record(n) for n in range(ALL))])
    worker = mesh.worker(slots=ALL + 1, grace=timedelta(0))
    stopping.append(worker)
    await worker.run()
    assert ran == ["stops"]
    assert worker.snapshot.busy == 0, "each slot is free again"
    await wait_until(lambda: _waits(mesh, ALL), description="the one that ran is settled")
    assert (await mesh.residue()).keys() <= {"tasks", "in flight"}, "nothing was recorded"
    stopping.clear()
    await mesh.burst()
    assert sorted(ran[1:]) == list(range(ALL))


async def test_a_process_that_ends_gives_back_each_message_that_it_can(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Wait, Record)
    await mesh.broker.schedule_many(Wait(n) for n in (1, 2, 3))
    for sequence in (1, 2):
        await leave_crashes(mesh, sequence, 1)
    async with answers_heard(mesh) as heard, mesh.working() as worker:
        await wait_until(lambda: len(running) == 3, description="all run")
        await leave_crashes(mesh, 1, 1)  # another worker has it
        await worker.abandon()
        await wait_until(lambda: len(heard) >= 2, description="they were given back")
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 3, description="their executions go on, and end")
    assert heard == {2: b'-NAK {"delay":3000000000}', 3: b'-NAK {"delay":3000000000}'}
    assert "left test:Wait (message 1) unsettled: another worker has message 1" in caplog.text
    record = (await AttemptStore(mesh.attempts).read(await first_delivery(mesh, 2))).record
    assert (record.crashes, record.failed) == (1, 0)
    async with mesh.working():
        await wait_until(lambda: sorted(ran) == [1, 2, 2, 3, 3], description="they run elsewhere")
    mesh.allows_residue = True


async def test_a_message_that_has_not_begun_when_its_process_ends_is_given_back_and_neither_run_nor_acked(
    mesh: TaskMesh,
) -> None:
    class Abandons(StopsItsWorker):
        async def execute(self) -> None:
            ran.append("abandons")
            for worker in stopping:
                await worker.abandon()

    mesh.allows_residue = True
    mesh.register(Abandons, Record)
    await mesh.broker.schedule_many([Abandons(), *(Record(n) for n in range(2, ALL + 1))])
    async with answers_heard(mesh) as heard:
        worker = mesh.worker(slots=ALL)
        stopping.append(worker)
        async with running_worker(worker):
            await wait_until(lambda: len(heard) == ALL, description="each is answered")
    # A message that arrived only after `abandon` began is executed, or was read after the stop and goes back at once.
    for number, answer in heard.items():
        assert answer in ([b"+ACK"] if number in ran else [b'-NAK {"delay":3000000000}', b"-NAK"]), number
    assert sorted(heard) == list(range(1, ALL + 1))


async def test_a_message_whose_lease_lapses_while_its_record_is_written_is_not_given_back(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    leases = LeaseKeeper(timedelta(seconds=30), clock)

    class Slow(AttemptStore):
        async def interrupt(self, attempts: Attempts) -> None:
            clock.now += 60

    await mesh.publish_by_hand((None, b""))
    lease = leases.take(await first_delivery(mesh, 1))
    assert lease is not None
    lease.attempts = Attempts(1, AttemptRecord(1))
    in_flight = InFlight(leases, Slots(1), IsolationGate(lambda: 0, timedelta(0), timedelta(0)), cast(Processor, None))
    async with answers_heard(mesh) as heard:
        await in_flight.abandon(Slow(mesh.attempts))
        await mesh.connection.client.flush()
    assert not heard
    assert "unsettled: the lease on message 1 lapsed" in caplog.text
    mesh.allows_residue = True


@asynccontextmanager
async def answers_heard(mesh: TaskMesh) -> AsyncIterator[dict[int, bytes]]:
    """The latest answer to each message that reached the server, by sequence."""
    answers: dict[int, bytes] = {}

    def note(message: Received) -> None:
        answers[int(message.subject.split(".")[5])] = message.data

    subscription = await mesh.connection.client.listen("$JS.ACK.>", note)
    await mesh.connection.client.flush()
    yield answers
    await mesh.connection.client.leave(subscription)


async def _waits(mesh: TaskMesh, count: int) -> bool:
    return await mesh.waiting() == count
