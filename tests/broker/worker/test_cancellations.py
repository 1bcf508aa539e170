"""What becomes of tasks that an operator cancels: for later, in a queue, running, parked, dead, or not there."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.cancellations.follower import CancellationFollower
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.execution.job import Cancelled, LockBusy, Outcome, Succeeded
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff
from diracx.tasks.plumbing.worker import worker as worker_module
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.cancelling import cancel, cancel_all, cancel_one, counts, serving_worker
from support.deliveries import leave_crashes
from support.mesh import TaskMesh
from support.recording_tasks import Record, Wait, ran

MANY = 10_000
OPERATION = "diracx.tasks.plumbing.operations.cancellation"


@dataclasses.dataclass
class Locked(Wait):
    """Runs under a lock, and would be retried if it failed."""

    retry_policy = ExponentialBackoff(base_delay_seconds=0, max_retries=5)
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, "one")]


@dataclasses.dataclass
class RaisesWhenCancelled(Wait):
    """Gets another error while it cleans up."""

    dlq_eligible = True

    async def execute(self) -> None:
        try:
            await super().execute()
        except asyncio.CancelledError:
            raise ValueError("the clean-up failed") from None


@dataclasses.dataclass
class Swallows(Wait):
    """Takes its cancellation for the end of its work, and returns."""

    async def execute(self) -> None:
        try:
            await super().execute()
        except asyncio.CancelledError:
            ran.append(f"swallowed {self.n}")


@dataclasses.dataclass
class Lingers(BaseTask):
    """Goes on for as long as the test likes, whatever it is told."""

    size = Size.SMALL

    async def execute(self) -> None:
        recording_tasks.running.append(0)
        while not recording_tasks.go.is_set():
            try:
                await recording_tasks.go.wait()
            except asyncio.CancelledError:
                ran.append("told")


@dataclasses.dataclass
class FailsFor(BaseTask):
    """Fails, and waits an hour for its retry."""

    size = Size.SMALL
    retry_policy = ExponentialBackoff(base_delay_seconds=3600, max_retries=5)

    async def execute(self) -> None:
        ran.append("failed")
        raise ConnectionError("no route to example.org")


@pytest.fixture(autouse=True)
async def _fresh() -> None:
    recording_tasks.reset()


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator gives workers some seconds, which is too short for tests on a busy machine."""
    for name in ("WORKERS_SECONDS", "HEARD_SECONDS"):
        monkeypatch.setattr(f"{OPERATION}.{name}", 30.0)


class Outcomes:
    """The outcomes that workers reported, by the id of the task."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Outcome]] = []

    def __call__(self, name: str, task_id: str, outcome: Outcome) -> None:
        self.all.append((task_id, outcome))

    def of(self, task_id: str) -> list[type[Outcome]]:
        return [type(outcome) for each, outcome in self.all if each == task_id]


async def _runs(count: int = 1) -> None:
    await wait_until(lambda: len(recording_tasks.running) == count, description=f"{count} run")


async def test_waiting_tasks_are_dropped_when_their_turn_comes_and_others_run(mesh: TaskMesh) -> None:
    mesh.register(Record, Wait)
    outcomes = Outcomes()
    ids = [await Record(n).schedule() for n in range(4)]
    (by_hand,) = await mesh.publish_by_hand(({"Task-Name": "test:Record"}, b'{"n":4}'))
    answers = await cancel(mesh, ids[1], str(by_hand), "never there")
    assert [(answer.key, counts(answer), answer.done) for answer in answers] == [
        (ids[1], {"waiting": 1}, True),
        (str(by_hand), {"waiting": 1}, True),
        ("never there", {}, False),
    ]
    twice = await cancel_one(mesh, ids[1])
    assert (counts(twice), twice.until) == ({"waiting": 1}, None)
    async with serving_worker(mesh, on_outcome=outcomes):
        await wait_until(lambda: len(outcomes.all) == 5, description="all were looked at")
        assert outcomes.of(ids[1]) == outcomes.of(str(by_hand)) == [Cancelled]
        assert counts(await cancel_one(mesh, ids[1])) == {}, "this worker has not settled it since"
    assert sorted(ran) == [0, 2, 3]


async def test_all_tasks_of_a_name_are_cancelled_and_later_ones_run(mesh: TaskMesh) -> None:
    mesh.register(Record, Wait)
    outcomes = Outcomes()
    await mesh.broker.submit_many([Record(n) for n in range(20)] + [Wait(20)])
    answer = await cancel_all(mesh, "test:Record")
    assert (counts(answer), answer.done) == ({"waiting": 20}, True)
    later = await Record(21).schedule()
    recording_tasks.go.set()
    async with mesh.working(on_outcome=outcomes):
        await wait_until(lambda: len(outcomes.all) == 22, description="all were looked at")
    assert sorted(ran) == [20, 21]
    assert outcomes.of(later) == [Succeeded]


async def test_ten_thousand_that_wait_are_cancelled_by_one_note_and_none_begins_once_it_is_known(
    mesh: TaskMesh,
) -> None:
    events: list[str] = []

    class Begins(Record):
        async def execute(self) -> None:
            events.append("begins")
            await asyncio.sleep(0.05)

    def ended(name: str, task_id: str, outcome: Outcome) -> None:
        events.append(type(outcome).__name__)

    mesh.register(Begins)
    await mesh.broker.submit_many(Begins(n) for n in range(MANY))
    async with serving_worker(mesh, on_outcome=ended):
        await wait_until(lambda: events, description="they run")
        await cancel_all(mesh, "test:Begins")
        await wait_until(lambda: len(events) - events.count("begins") == MANY, description="none is left", timeout=60)
    first = events.index("Cancelled")
    assert "begins" not in events[first:]
    assert {*events[first:]} <= {"Cancelled", "Succeeded"}
    assert first < MANY / 2


async def test_a_running_task_is_ended_its_lock_released_and_it_neither_runs_again_nor_dies(mesh: TaskMesh) -> None:
    mesh.register(Locked, RaisesWhenCancelled)
    outcomes = Outcomes()
    async with serving_worker(mesh, on_outcome=outcomes):
        for n, task_class in enumerate((Locked, RaisesWhenCancelled)):
            identity = await task_class(n).schedule()
            await _runs()
            answer = await cancel_one(mesh, identity)
            assert (counts(answer), answer.done) == ({"cancelled": 1}, True)
            assert outcomes.of(identity) == [Cancelled]
        assert await mesh.locks.keys() == []
    assert ran == []
    assert await mesh.dead_letters() == []
    assert await mesh.residue() == {}


async def test_running_tasks_of_a_name_or_a_group_are_ended_together(mesh: TaskMesh) -> None:
    mesh.register(Wait)
    outcomes = Outcomes()
    async with serving_worker(mesh, slots=20, on_outcome=outcomes):
        for n in range(5):
            await Wait(n).schedule()
        await _runs(5)
        answer = await cancel_all(mesh, "test:Wait")
        assert (counts(answer), answer.done) == ({"cancelled": 5}, True)
        assert [type(outcome) for _, outcome in outcomes.all] == [Cancelled] * 5


async def test_a_task_that_swallows_its_cancellation_and_returns_has_succeeded(mesh: TaskMesh) -> None:
    mesh.register(Swallows)
    outcomes = Outcomes()
    async with serving_worker(mesh, on_outcome=outcomes):
        identity = await Swallows(1).schedule()
        await _runs()
        answer = await cancel_one(mesh, identity)
    assert (counts(answer), answer.done) == ({"finished": 1}, False)
    assert outcomes.of(identity) == [Succeeded]
    assert ran == ["swallowed 1"]


async def test_a_task_that_does_not_end_is_told_from_one_that_does(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Lingers)
    outcomes = Outcomes()
    monkeypatch.setattr(f"{OPERATION}.WORKERS_SECONDS", 0.0)
    async with serving_worker(mesh, on_outcome=outcomes) as worker:
        identity = await Lingers().schedule()
        await _runs()
        answer = await cancel_one(mesh, identity)
        assert (counts(answer), answer.done) == ({"running": 1}, False)
        (running,) = answer.running
        assert (running.id, running.task, running.worker) == (identity, "test:Lingers", worker.id)
        assert running.blocked_at is None, "it yields"
        await wait_until(lambda: ran[:1] == ["told"], description="it was told")
        recording_tasks.go.set()
        await wait_until(lambda: outcomes.all, description="it has ended")
    assert outcomes.of(identity) == [Succeeded]


async def test_a_worker_that_starts_after_the_note_never_begins_the_task(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose follower does not get to run."""

    async def never_reads(self: CancellationFollower) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(CancellationFollower, "run", never_reads)
    mesh.register(Record)
    identity = await Record(1).schedule()
    await cancel_one(mesh, identity)
    await mesh.burst()
    assert ran == []


async def test_a_task_that_has_not_begun_is_given_back_and_cancelled_when_it_comes_again(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.register(Record)
    identity = await Record(1).schedule()
    await leave_crashes(mesh, 1, 1)
    read, reads = AttemptStore.read, []

    async def waits_once(store: AttemptStore, delivery: Delivery) -> Attempts:
        reads.append(delivery)
        if len(reads) == 1:
            await asyncio.Event().wait()
        return await read(store, delivery)

    monkeypatch.setattr(AttemptStore, "read", waits_once)
    outcomes = Outcomes()
    async with serving_worker(mesh, on_outcome=outcomes):
        await wait_until(lambda: reads, description="its attempts are read")
        answer = await cancel_one(mesh, identity)
        await wait_until(lambda: outcomes.all, description="it has ended")
    assert answer.done
    assert outcomes.of(identity) == [Cancelled]
    assert ran == []


async def test_a_worker_that_has_not_heard_of_a_later_note_does_not_count_for_it(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_reads(self: CancellationFollower) -> None:
        await asyncio.Event().wait()

    mesh.register(Record)
    identity = await Record(1).schedule()
    await cancel_one(mesh, identity)
    monkeypatch.setattr(CancellationFollower, "run", never_reads)
    outcomes = Outcomes()
    async with serving_worker(mesh, on_outcome=outcomes):
        await wait_until(lambda: outcomes.of(identity) == [Cancelled], description="it is dropped")
        assert counts(await cancel_one(mesh, identity)) == {}


async def test_a_task_whose_worker_was_killed_time_and_again_is_cancelled_and_no_poison(mesh: TaskMesh) -> None:
    mesh.register(Record)
    identity = await Record(1).schedule()
    await leave_crashes(mesh, 1, 5)
    await cancel_one(mesh, identity)
    outcomes = Outcomes()
    await mesh.burst(on_outcome=outcomes)
    assert outcomes.of(identity) == [Cancelled]
    assert await mesh.dead_letters() == []


async def test_a_task_that_waits_for_its_retry_is_cancelled_and_the_answer_tells_until_when(mesh: TaskMesh) -> None:
    mesh.register(FailsFor)
    mesh.allows_residue = True
    identity = await FailsFor().schedule()
    async with serving_worker(mesh):
        await wait_until(mesh.attempts.keys, description="it waits for its retry")
        answer = await cancel_one(mesh, identity)
    assert (counts(answer), answer.done) == ({"waiting": 1}, True)
    assert answer.until is not None
    assert timedelta(minutes=50) < answer.until - answer.at < timedelta(minutes=70)
    assert ran == ["failed"]


async def test_a_record_of_attempts_that_cannot_be_read_tells_no_time(mesh: TaskMesh) -> None:
    mesh.register(Record)
    mesh.allows_residue = True
    identity = await Record(1).schedule()
    await mesh.attempts.create("1", b"by hand")
    answer = await cancel_one(mesh, identity)
    assert (counts(answer), answer.until) == ({"waiting": 1}, None)


async def test_a_task_that_waits_for_a_lock_is_cancelled_when_its_turn_comes(mesh: TaskMesh) -> None:
    mesh.register(Locked)
    outcomes = Outcomes()
    async with serving_worker(mesh, on_outcome=outcomes):
        first = await Locked(1).schedule()
        await _runs()
        second = await Locked(2).schedule()
        await wait_until(lambda: LockBusy in outcomes.of(second), description="it waits for the lock")
        answer = await cancel_one(mesh, second)
        assert answer.done
        await wait_until(lambda: Cancelled in outcomes.of(second), description="it is cancelled")
        recording_tasks.go.set()
        await wait_until(lambda: outcomes.of(first), description="the other one ends")
    assert ran == [1]


@pytest.mark.parametrize("error", [ServerUnavailableError("no answer"), ServerError("refused")])
async def test_a_worker_waits_for_the_cancellations_at_its_start_but_not_for_ever(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: ServerError
) -> None:
    async def fails(self: CancellationFollower) -> Any:
        raise error

    mesh.register(Record)
    monkeypatch.setattr(CancellationFollower, "refresh", fails)
    monkeypatch.setattr(worker_module, "FIRST_READ_SECONDS", 0.1)
    await Record(1).schedule()
    async with mesh.working():
        await wait_until(lambda: ran == [1], description="it serves")
    begins = "begins without the cancellations: tasks that were cancelled may begin until they can be read"
    assert (begins in caplog.messages) == isinstance(error, ServerUnavailableError)
    assert f"the cancellations cannot be read, and those that are known stay in force: {error}" in caplog.messages
