"""Isolated tasks: their executions began twice and never ended, so they begin alone in their worker."""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, MutexLock
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.deliveries import leave_crashes
from support.locking import new_owner
from support.mesh import TaskMesh
from support.recording_tasks import Record, Wait, most_at_once, ran, running


@pytest.fixture(autouse=True)
async def fresh(mesh: TaskMesh) -> None:
    recording_tasks.reset()
    mesh.register(Wait, Record)


may_end: dict[int, asyncio.Event] = {}
"""Ends the `WaitForOwn` of this number."""


class WaitForOwn(Wait):
    """Runs until the test sets its own event."""

    async def execute(self) -> None:
        running.append(self.n)
        await may_end[self.n].wait()
        running.remove(self.n)
        ran.append(self.n)


class WaitLocked(Wait):
    """Takes a lock, as a task of a killed worker that left it held."""

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, self.n)]


async def submit_crashed(mesh: TaskMesh, *numbers: int, crashes: int = 2, task_class: type[Wait] = Wait) -> list[str]:
    """Before anything else is submitted, so that their sequences are known. Returns their ids."""
    ids = await mesh.broker.schedule_many([task_class(n) for n in numbers])
    for sequence in range(1, len(numbers) + 1):
        await leave_crashes(mesh, sequence, crashes)
    return ids


async def record(mesh: TaskMesh, sequence: int) -> AttemptRecord:
    entry = await mesh.attempts.read(str(sequence))
    assert entry is not None
    return msgspec.json.decode(entry.value, type=AttemptRecord)


async def pull_waits(mesh: TaskMesh) -> bool:
    """Whether a request for messages is open at the server."""
    infos = await mesh.connection.api(f"CONSUMER.LIST.{mesh.namespace.tasks_stream}")
    return any(info["num_waiting"] for info in infos["consumers"])


async def several_round_trips(mesh: TaskMesh) -> None:
    """Time enough for a task in flight to read its record and begin."""
    for _ in range(10):
        await mesh.waiting()


async def test_tasks_that_crashed_twice_wait_until_the_others_have_ended_and_then_run_one_by_one(
    mesh: TaskMesh,
) -> None:
    await submit_crashed(mesh, 1, 2, 3)
    await mesh.broker.schedule_many(Wait(n) for n in (11, 12, 13))
    async with mesh.working():
        await wait_until(lambda: sorted(running) == [11, 12, 13], description="the others run")
        await several_round_trips(mesh)
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 6, description="all are done")
    assert sorted(ran[:3]) == [11, 12, 13]
    assert most_at_once == [1, 2, 3, 1, 1, 1]


async def test_a_task_that_crashed_once_is_not_isolated(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1, 2, crashes=1)
    async with mesh.working():
        await wait_until(lambda: sorted(running) == [1, 2], description="both run side by side")
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 2, description="both are done")


async def test_a_worker_takes_nothing_while_a_task_runs_isolated_and_goes_on_afterwards(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1)
    async with mesh.working() as busy:
        await wait_until(lambda: running == [1], description="the isolated task runs")
        async with mesh.working():
            await mesh.broker.schedule_many(Record(n) for n in range(100))
            await wait_until(lambda: len(ran) == 100, description="the other worker does the rest")
        assert busy.processed == 0
        recording_tasks.go.set()
        await Record(200).schedule()
        await wait_until(lambda: 200 in ran, description="the worker takes tasks again")


async def test_a_task_that_is_not_isolated_in_time_is_given_back_uncounted(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mesh.allows_residue = True
    await submit_crashed(mesh, 1)
    await Wait(11).schedule()
    async with mesh.working(isolation_timeout=timedelta(seconds=0.1), grace=timedelta(0)):
        given_back = "and was not isolated: other tasks were still running after 0.1 s"
        await wait_until(lambda: given_back in caplog.text, description="it is given back")
        assert running == [11]
        await Record(12).schedule()
        await wait_until(lambda: ran == [12], description="the worker takes tasks again")
    assert (await record(mesh, 1)).crashes == 2


async def test_isolation_is_logged_with_the_task_the_reason_and_what_it_cost(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    (task_id,) = await submit_crashed(mesh, 1, crashes=3)
    await Wait(11).schedule()
    async with mesh.working() as worker:
        await wait_until(lambda: "waits until" in caplog.text and running == [11], description="it waits")
        assert worker.snapshot.isolated == f"test:Wait {task_id}"
        recording_tasks.go.set()
        await wait_until(lambda: sorted(ran) == [1, 11], description="both are done")
        await wait_until(lambda: worker.snapshot.isolated is None, description="the isolation is over")
    lines = [line.getMessage() for line in caplog.records if line.module == "isolation"]
    assert {line.levelno for line in caplog.records if line.module == "isolation"} == {logging.WARNING}
    name, seconds = re.escape(f"test:Wait {task_id}"), r"\d+\.\d s"
    for line, expected in zip(
        lines,
        (
            f"{name} waits until it is the only task of this worker: 3 executions of it began and never ended",
            f"{name} runs isolated, after {seconds} in which other tasks ended",
            f"{name} ran isolated for {seconds}; this worker took no messages for {seconds}",
        ),
        strict=True,
    ):
        assert re.fullmatch(expected, line)


async def test_a_long_isolated_task_holds_its_worker_up_for_its_window_only(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    (task_id,) = await submit_crashed(mesh, 1)
    async with mesh.working(isolation_window=timedelta(seconds=0.2)) as worker:
        await wait_until(lambda: running == [1], description="the isolated task runs")
        closed = worker.snapshot
        assert not closed.pulls
        await wait_until(lambda: worker.snapshot.pulls, description="the window is over")
        # The health of the worker counts from this moment: it had a reason not to pull.
        assert worker.snapshot.changed_at >= closed.changed_at + 0.2
        await mesh.broker.schedule_many(Record(n) for n in range(20))
        await wait_until(lambda: len(ran) == 20, description="the worker takes tasks again")
        assert running == [1]
        assert worker.snapshot.isolated == f"test:Wait {task_id}"
        recording_tasks.go.set()
    assert f"test:Wait {task_id} has run isolated for 0.2 s: this worker takes messages again beside it" in caplog.text
    (held_up,) = re.findall(r"this worker took no messages for (\S+) s", caplog.text)
    (ran_for,) = re.findall(r"ran isolated for (\S+) s; this", caplog.text)
    assert 0.2 <= float(held_up) <= float(ran_for) + 0.1


async def test_a_second_suspect_waits_beside_the_first_one_without_idling_the_worker_and_begins_alone(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    await submit_crashed(mesh, 1, 2)
    async with mesh.working(isolation_window=timedelta(0)) as worker:
        await wait_until(lambda: len(running) == 1 and caplog.text.count("waits until") == 2, description="one runs")
        await wait_until(lambda: worker.snapshot.pulls, description="the worker takes messages")
        await mesh.broker.schedule_many(Record(n) for n in range(20, 40))
        await wait_until(lambda: len(ran) == 20, description="the worker takes tasks while the second one waits")
        assert len(running) == 1
        recording_tasks.go.set()
        await wait_until(lambda: len(ran) == 22, description="both are done")
    assert sorted(ran[20:]) == [1, 2]
    assert most_at_once == [1, 1]


async def test_the_gate_closes_again_for_a_second_suspect_once_the_first_one_has_ended(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:

    async def no_pull_waits() -> bool:
        return not await pull_waits(mesh)

    mesh.register(WaitForOwn)
    may_end.update({n: asyncio.Event() for n in (1, 2, 11)})
    await submit_crashed(mesh, 1, 2, task_class=WaitForOwn)
    async with mesh.working(isolation_window=timedelta(0)) as worker:
        await wait_until(lambda: len(running) == 1 and caplog.text.count("waits until") == 2, description="one runs")
        await WaitForOwn(11).schedule()
        await wait_until(lambda: 11 in running, description="another one runs beside it")
        await wait_until(lambda: pull_waits(mesh), description="the worker waits for messages")
        first = running[0]
        second = 3 - first
        may_end[first].set()
        await wait_until(lambda: not worker.snapshot.pulls, description="the worker takes nothing more")
        await wait_until(no_pull_waits, description="and has ended its wait for messages")
        assert running == [11]
        may_end[11].set()
        await wait_until(lambda: running == [second], description="the second one runs")
        may_end[second].set()
    assert ran == [first, 11, second]


async def test_a_suspect_whose_lock_is_held_elsewhere_does_not_close_the_gate(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mesh.register(WaitLocked)
    await submit_crashed(mesh, 1, task_class=WaitLocked)
    await Wait(11).schedule()
    left_behind = await MutexLock(JOB, 1).acquire(mesh.locks, new_owner("killed"))
    async with mesh.working() as worker:
        busy = "on killed since"
        await wait_until(lambda: caplog.text.count(busy) >= 2 and running == [11], description="it tries the lock")
        assert worker.snapshot.pulls
        assert "waits until" not in caplog.text
        await left_behind.release()
        await wait_until(lambda: "waits until" in caplog.text, description="it has the lock, and waits for the other")
        assert running == [11]
        recording_tasks.go.set()
        await wait_until(lambda: ran == [11, 1], description="both are done")
    assert caplog.text.count("waits until") == 1


@pytest.mark.parametrize("window_seconds", [0, 60])
async def test_a_second_suspect_whose_turn_does_not_come_in_time_goes_back_for_another_worker(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture, window_seconds: float
) -> None:
    caplog.set_level(logging.INFO)
    mesh.allows_residue = True
    await submit_crashed(mesh, 1, 2)
    settings = {"isolation_window": timedelta(seconds=window_seconds), "isolation_timeout": timedelta(seconds=0.5)}
    async with mesh.working(**settings, grace=timedelta(0)) as worker:
        given_back = "and was not isolated: other tasks were still running after 0.5 s"
        await wait_until(lambda: given_back in caplog.text, description="the second one is given back")
        assert len(running) == 1
        assert worker.snapshot.isolated is not None
    assert not ran
    assert most_at_once == [1]
    assert [(await record(mesh, sequence)).crashes for sequence in (1, 2)] == [2, 2]


async def test_a_worker_can_be_stopped_while_a_task_runs_isolated_and_counts_no_crash(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1, 2)
    async with mesh.working(grace=timedelta(0)):
        await wait_until(lambda: len(running) == 1, description="one of them runs")
        await Record(12).schedule()
        await several_round_trips(mesh)
    assert not running
    assert [(await record(mesh, sequence)).crashes for sequence in (1, 2)] == [2, 2]
    recording_tasks.go.set()
    await mesh.burst()
    assert sorted(ran) == [1, 2, 12]


async def test_an_isolated_task_has_the_grace_period_to_end(mesh: TaskMesh) -> None:
    await submit_crashed(mesh, 1)
    async with mesh.working() as worker:
        await wait_until(lambda: running == [1], description="the isolated task runs")
        await Record(12).schedule()
        await several_round_trips(mesh)
        worker.stop()
        recording_tasks.go.set()
    assert ran == [1], "and nothing new was begun"
    await mesh.burst()
