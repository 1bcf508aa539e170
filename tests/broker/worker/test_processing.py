"""The screening on a real server: a held lock, a passed expiry, an unknown name, the wrong queue."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from diracx.tasks.cli.logs import TextFormatter
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, shown
from diracx.tasks.plumbing.execution.job import WrongQueue
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.lock_registry import JOB
from diracx.tasks.plumbing.locks import BaseLock, LockOwner, MutexLock
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.retry_policies import RetryPolicyBase
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.testing import wait_until
from support import recording_tasks
from support.deliveries import FakeMessage, first_delivery, settlement_of
from support.mesh import TaskMesh
from support.recording_tasks import Record, Soon, Wait, attempts_seen, most_at_once, ran


@pytest.fixture(autouse=True)
async def fresh() -> None:
    recording_tasks.reset()


@dataclasses.dataclass
class Locked(BaseTask):
    n: int
    size = Size.SMALL
    retry_policy = Soon()
    dlq_eligible = True

    @property
    def execution_locks(self) -> list[BaseLock]:
        return [MutexLock(JOB, 1)]

    async def execute(self) -> None:
        ran.append(self.n)
        if self.n < 0:
            raise ValueError("no")


async def test_a_busy_lock_delays_a_task_and_costs_it_no_retry(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mesh.register(Locked)
    hold = await MutexLock(JOB, 1).acquire(mesh.locks, LockOwner.new(task="a test", id="me", worker="here"))
    await Locked(-1).schedule()
    async with mesh.working():
        await wait_until(lambda: caplog.text.count("mutex.job.1 is held by a test me") >= 3, description="it waits")
        assert not ran
        assert not await mesh.attempts.keys()
        await hold.release()
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it ran out of retries")
    assert attempts_seen == [0, 1]
    assert ran == [-1, -1]
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Executions"] == "2"


async def test_tasks_that_want_one_lock_run_one_after_another(mesh: TaskMesh) -> None:
    class Exclusive(Wait):
        @property
        def execution_locks(self) -> list[BaseLock]:
            return [MutexLock(JOB, 1)]

    mesh.register(Exclusive)
    recording_tasks.go.set()
    await mesh.broker.schedule_many(Exclusive(n) for n in range(5))
    async with mesh.working():
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="all are done")
    assert sorted(ran) == list(range(5))
    assert max(most_at_once) == 1


@pytest.mark.parametrize("keeps_result", [False, True])
async def test_a_task_is_acked_while_its_lock_is_released_unless_more_than_an_ack_follows(
    mesh: TaskMesh, monkeypatch: pytest.MonkeyPatch, keeps_result: bool
) -> None:
    class Released(Locked):
        result_ttl_seconds = 60 if keeps_result else None

    delete, releasing, gate = Bucket.delete, asyncio.Event(), asyncio.Event()

    async def delete_later(bucket: Bucket, key: str, revision: int) -> None:
        releasing.set()
        await gate.wait()
        await delete(bucket, key, revision)

    monkeypatch.setattr(Bucket, "delete", delete_later)
    mesh.register(Released)
    await mesh.broker.schedule_many([Released(1), Released(2)])
    async with mesh.working(slots=1):
        await releasing.wait()
        try:
            if not keeps_result:
                await wait_until(lambda: _equals(mesh.waiting(), 1), description="the first one is settled")
            assert await mesh.locks.keys() == ["mutex.job.1"]
            assert await mesh.waiting() == (2 if keeps_result else 1)
        finally:
            gate.set()
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="the next one gets the lock")
    assert ran == [1, 2]
    assert not await mesh.locks.keys(), "the worker ends after it has released all"


async def test_an_expired_task_is_dropped_with_a_warning(mesh: TaskMesh, caplog: pytest.LogCaptureFixture) -> None:
    mesh.register(Record)
    await mesh.publish_by_hand(
        ({"Task-Name": "test:Record", "Task-Expires": "2026-01-01T00:00:00Z"}, b'{"n": 1}'),
        ({"Task-Name": "test:Record", "Task-Expires": "9999-01-01T00:00:00Z"}, b'{"n": 2}'),
    )
    await mesh.burst()
    assert ran == [2]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "dropped test:Record (message 1): expired at 2026-01-01T00:00:00Z before it was done"
    ]
    assert not await mesh.dead_letters()


@pytest.mark.parametrize("eligible", [False, True])
async def test_a_task_that_failed_is_not_retried_past_its_expiry_and_its_failure_is_not_silent(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture, eligible: bool
) -> None:
    expires = datetime.now(UTC) + timedelta(seconds=1)

    class PastExpiry(RetryPolicyBase):
        def schedule_retry(self, attempt: int, exception: BaseException) -> datetime | None:
            return expires + timedelta(seconds=0.1) if attempt < 1 else None

    class Begun(Record):
        retry_policy = PastExpiry()
        dlq_eligible = eligible

        async def execute(self) -> None:
            ran.append(1)
            raise ValueError("no")

    mesh.register(Begun)
    await mesh.publish_by_hand(({"Task-Name": "test:Begun", "Task-Expires": expires.isoformat()}, b'{"n": 1}'))
    async with mesh.working():
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    assert ran == [1]
    reason = f"expired at {expires:%FT%T}Z before it was done; it failed 1 times, the last with ValueError: no"
    letters = await mesh.dead_letters()
    if eligible:
        assert [letter.headers["Dead-Reason"] for letter in letters] == [reason]
        assert json.loads(letters[0].headers["Dead-Errors"])[0]["message"] == "no"
    else:
        assert not letters
        assert f"dropped test:Begun (message 1): {reason}" in caplog.messages


async def test_an_expired_task_whose_failures_found_no_room_in_its_record_is_not_silent(mesh: TaskMesh) -> None:
    class Kept(Record):
        dlq_eligible = True

    mesh.register(Kept)
    await mesh.publish_by_hand(({"Task-Name": "test:Kept", "Task-Expires": "2026-01-01T00:00:00Z"}, b'{"n": 1}'))
    stored_ns = (await first_delivery(mesh, 1)).stored_ns
    await mesh.attempts.create("1", msgspec.json.encode(AttemptRecord(stored_ns, failed=30)))
    await mesh.burst()
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"].endswith("before it was done; it failed 30 times")


async def test_a_task_that_was_given_back_does_not_begin_after_its_expiry(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Locked)
    expires = datetime.now(UTC) + timedelta(seconds=1)
    hold = await MutexLock(JOB, 1).acquire(mesh.locks, LockOwner.new(task="a test", id="me", worker="here"))
    await mesh.publish_by_hand(({"Task-Name": "test:Locked", "Task-Expires": expires.isoformat()}, b'{"n": 1}'))
    async with mesh.working():
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    await hold.release()
    assert not ran
    assert caplog.messages == [f"dropped test:Locked (message 1): expired at {expires:%FT%T}Z before it was done"]


async def test_a_message_that_is_exhausted_and_to_be_dropped_is_dropped(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.register(Record)
    await Record(1).schedule()
    store = AttemptStore(mesh.attempts)
    attempts = await store.read(await first_delivery(mesh, 1))
    await store.exhaust(attempts, Failure.of(ValueError("no"), "another"), "no retry is left", dropped=True)
    await mesh.burst()
    assert not ran
    assert not await mesh.dead_letters()
    assert caplog.messages == ["dropped test:Record (message 1): no retry is left"]


async def test_an_unknown_task_is_given_back_a_few_times_and_then_becomes_a_dead_letter(mesh: TaskMesh) -> None:
    async with mesh.working(unknown_tries=3):
        await mesh.publish_by_hand(({"Task-Name": "test:Newer", "Task-Labels": '{"a":"b"}'}, b'{"n": 1}'))
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    (letter,) = await mesh.dead_letters()
    assert letter.body == b'{"n": 1}'
    assert letter.headers["Dead-Reason"] == "unknown task 'test:Newer'"
    assert letter.headers["Dead-Executions"] == "0"
    assert letter.headers["Task-Labels"] == '{"a":"b"}'
    (advisory,) = await mesh.stored(mesh.namespace.dead_letters_stream, "$JS.EVENT.ADVISORY")
    assert json.loads(advisory.body)["deliveries"] == 3
    assert json.loads(advisory.body)["reason"] == "unknown task 'test:Newer'"


async def test_the_name_of_a_task_and_its_id_are_cut_wherever_they_are_shown(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.handler.setFormatter(TextFormatter("%(levelname)s %(message)s"))
    reported: list[str] = []
    name = "test:" + "N" * 3000
    async with mesh.working(unknown_tries=3, on_outcome=lambda name, task_id, outcome: reported.append(name)):
        await mesh.publish_by_hand(({"Task-Name": name, "Task-Id": "i" * 3000}, b'{"n": 1}'))
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    assert len([line for line in caplog.messages if not line.startswith(("ended as ", "this worker"))]) == 3
    assert max(map(len, caplog.text.splitlines())) < 1000
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"] == f"unknown task '{name[:200]} [cut]'"
    assert letter.headers["Task-Name"] == name
    assert set(reported) == {name}, "whoever works with it gets the whole name"


@pytest.mark.parametrize(("name", "identity"), [("N" * 65_400, "i"), ("N", "i" * 65_400), ("N" * 32_700, "i" * 32_700)])
async def test_a_name_or_an_id_that_fills_all_headers_is_cut_and_leaves_its_queue(
    mesh: TaskMesh, name: str, identity: str
) -> None:
    async with mesh.working(unknown_tries=1):
        await mesh.publish_by_hand(({"Task-Name": f"test:{name}", "Task-Id": identity}, b'{"n": 1}'))
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Task-Name"] == shown(f"test:{name}")
    assert letter.headers["Task-Id"] == shown(identity)
    assert letter.body == b'{"n": 1}'


async def test_a_task_that_this_worker_does_not_know_is_taken_by_a_newer_one(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    newer = TaskRegistry()
    newer.add("test:Record", Record)
    async with mesh.working(unknown_tries=1000):
        await mesh.publish_by_hand(({"Task-Name": "test:Record"}, b'{"n": 1}'))
        await wait_until(lambda: "try 2 of 1000: unknown task 'test:Record'" in caplog.text, description="given back")
        async with mesh.working(registry=newer):
            await wait_until(lambda: ran, description="the newer worker took it")
    assert ran == [1]
    assert not await mesh.dead_letters()


async def test_a_message_of_a_newer_format_is_left_to_newer_workers(mesh: TaskMesh) -> None:
    mesh.register(Record)
    async with mesh.working(unknown_tries=2):
        await mesh.publish_by_hand(({"Task-Name": "test:Record", "Task-Version": "2"}, b'{"n": 1}'))
        await wait_until(lambda: _equals(mesh.waiting(), 0), description="it was given up")
    assert not ran
    (letter,) = await mesh.dead_letters()
    assert letter.headers["Dead-Reason"] == "message format 2 is newer than this worker"


async def test_a_message_in_the_queue_of_another_size_is_requeued_and_runs_where_it_belongs(mesh: TaskMesh) -> None:
    class Elsewhere(Record):
        size = Size.LARGE

    mesh.register(Elsewhere)
    await mesh.publish_by_hand(({"Task-Name": "test:Elsewhere"}, b'{"n": 1}'))
    await mesh.burst()
    assert ran == []
    assert await mesh.waiting() == 1
    await mesh.burst(size=Size.LARGE)
    assert ran == [1]


async def test_a_task_whose_size_changes_again_within_the_duplicate_window_is_moved_again(mesh: TaskMesh) -> None:
    class Elsewhere(Record):
        size = Size.MEDIUM

    older, newer = TaskRegistry(), TaskRegistry()
    older.add("test:Flips", Record)
    newer.add("test:Flips", Elsewhere)
    await mesh.publish_by_hand(({"Task-Name": "test:Flips", "Task-Id": "the-same"}, b'{"n": 1}'))
    for registry, size in ((newer, Size.SMALL), (older, Size.MEDIUM), (newer, Size.SMALL), (older, Size.MEDIUM)):
        await mesh.burst(registry=registry, size=size, unknown_delay=timedelta(0))
        assert await mesh.waiting() == 1, "it is in the other queue"
    await mesh.burst(registry=older)
    assert ran == [1]


async def test_a_message_that_was_moved_waits_before_it_is_moved_again(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    class Elsewhere(Record):
        size = Size.MEDIUM

    older, newer = TaskRegistry(), TaskRegistry()
    older.add("test:Flips", Record)
    newer.add("test:Flips", Elsewhere)
    await mesh.publish_by_hand(({"Task-Name": "test:Flips", "Task-Labels": '{"n":[1]}'}, b'{"n": 1}'))
    await mesh.burst(registry=newer)
    await mesh.burst(registry=older, size=Size.MEDIUM)
    assert "gave back test:Flips (message 2): it was moved before, and waits here first" in caplog.messages
    async with mesh.working(registry=older, size=Size.MEDIUM):
        await wait_until(lambda: _equals(mesh.state(), 3, "last_seq"), description="it is moved again")
    (moved,) = await mesh.stored(mesh.namespace.tasks_stream)
    assert moved.headers["Task-Labels"] == '{"n":[1]}'
    assert (moved.subject, moved.headers["Task-Moved"]) == (
        mesh.namespace.task_subject(Priority.NORMAL, Size.SMALL),
        "2",
    )
    await mesh.burst(registry=older)
    assert ran == [1]


async def test_a_copy_that_is_stored_again_after_a_crash_is_dropped(mesh: TaskMesh) -> None:
    class Elsewhere(Record):
        size = Size.LARGE

    class AckNotSent(Delivery):
        def ack(self) -> None:
            raise ServerUnavailableError("it crashed before")

    mesh.register(Elsewhere)
    (sequence,) = await mesh.publish_by_hand(({"Task-Name": "test:Elsewhere"}, b'{"n": 1}'))
    stored = await first_delivery(mesh, sequence)
    message = FakeMessage(stored.reply, headers={"Task-Name": "test:Elsewhere"}, data=b'{"n": 1}')
    attempts = AttemptStore(mesh.attempts)
    settlement = settlement_of(mesh, attempts)
    lease = LeaseKeeper(timedelta(seconds=30)).take(AckNotSent(mesh.connection, message, boottime()))
    assert lease is not None
    outcome = WrongQueue(mesh.namespace.task_subject(Elsewhere.priority, Size.LARGE))
    with pytest.raises(ServerUnavailableError):
        await settlement.settle(lease, "test:Elsewhere", await attempts.read(lease.delivery), outcome)
    assert await mesh.waiting() == 2
    await mesh.burst()
    assert await mesh.waiting() == 1, "the copy of the next delivery was a duplicate"
    await mesh.burst(size=Size.LARGE)
    assert ran == [1]


async def test_a_message_with_header_names_that_nats_py_refuses_is_requeued_without_them(mesh: TaskMesh) -> None:
    class Elsewhere(Record):
        size = Size.LARGE

    mesh.register(Elsewhere)
    await mesh.publish_raw(b"Task-Name: test:Elsewhere\r\na/b: 2", b'{"n": 1}')
    await mesh.burst()
    await mesh.burst(size=Size.LARGE)
    assert ran == [1]


async def _equals(coroutine: Any, expected: object, key: str | None = None) -> bool:
    value = await coroutine
    return bool((value if key is None else value[key]) == expected)
