"""Executions that a living worker gave up: they are written down as interrupted, and count as no crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import Entry
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore, StaleAttemptError
from diracx.tasks.testing import wait_until
from support.attempt_buckets import AT, FAILURE, STORED_NS, AnswerLost, delivery


@pytest.fixture
def bucket(connection: Connection, topology: Namespace) -> AnswerLost:
    return AnswerLost(connection, topology.attempts_bucket)


async def test_what_was_given_up_is_written_down_once_the_server_answers_and_is_no_crash(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    await store.begin(attempts)
    bucket.away = True
    async with at_work(store):
        store.interrupt_later(None)
        store.interrupt_later(attempts)
        await wait_until(lambda: bucket.refused > 0, description="it was tried")
        bucket.away = False
        await wait_until(lambda: unended_is(bucket, 0), description="it is written down")
    assert not attempts.begun_here
    with pytest.raises(StaleAttemptError, match="message 7 was given back before it began"):
        await store.begin(attempts)


async def test_what_was_given_up_is_written_down_whoever_has_the_message_by_then_and_spares_him(
    bucket: AnswerLost, connection: Connection
) -> None:
    mine, other = AttemptStore(bucket), AttemptStore(bucket)
    given_up = await mine.read(delivery(connection, delivered=2))
    await mine.begin(given_up)
    taken_over = await other.read(delivery(connection, delivered=3))
    await other.begin(taken_over)
    assert taken_over.record.crashes == 2
    mine.interrupt_later(given_up)
    await mine.settle_debts(5)
    stored = (await mine.read(delivery(connection, delivered=4))).record
    assert (stored.unended, stored.writer) == ((taken_over.id,), f"{taken_over.id}.begin")
    await other.fail(taken_over, FAILURE, AT)
    assert (taken_over.record.failed, taken_over.record.crashes) == (1, 0), "his write is no conflict"


async def test_a_begin_without_an_answer_is_written_down_as_interrupted_whether_it_was_stored_or_not(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    stored, unstored = [await store.read(delivery(connection, sequence, 2)) for sequence in (7, 8)]
    bucket.lose = True
    with pytest.raises(ServerUnavailableError):
        await store.begin(stored)
    store.interrupt_later(stored)
    unstored.begun_here, unstored.id = True, "never-stored"
    store.interrupt_later(unstored)
    assert (await store.read(delivery(connection, 7, 3))).record.crashes == 0, "reading settles the debt first"
    await store.settle_debts(5)
    assert await bucket.keys() == ["7"]


async def test_a_failure_that_was_stored_without_an_answer_is_no_debt(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    await store.begin(attempts)
    bucket.lose = True
    with pytest.raises(ServerUnavailableError):
        await store.fail(attempts, FAILURE, AT)
    store.interrupt_later(attempts)
    await store.settle_debts(5)
    record = (await store.read(delivery(connection, delivered=3))).record
    assert (record.failed, record.crashes) == (1, 0)


async def test_debts_that_the_server_does_not_take_before_the_worker_ends_are_logged(
    bucket: AnswerLost, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    await store.begin(attempts)
    store.interrupt_later(attempts)
    bucket.away = True
    await store.settle_debts(0.01)
    assert "interrupted executions of 1 messages will count as crashes" in caplog.text
    settling = asyncio.create_task(store.settle_debts(30))
    await asyncio.sleep(0)
    bucket.away = False
    await settling
    assert await unended_is(bucket, 0), "it is tried again within its time"


async def test_an_interruption_that_meets_another_write_is_written_upon_it(
    topology: Namespace, connection: Connection
) -> None:
    class WrittenMeanwhile(AnswerLost):
        async def read(self, key: str) -> Entry | None:
            entry = await super().read(key)
            if failing:
                await other.fail(failing.pop(), FAILURE, AT)
            return entry

    failing: list[Attempts] = []
    bucket = WrittenMeanwhile(connection, topology.attempts_bucket)
    store, other = AttemptStore(bucket), AttemptStore(bucket)
    given_up = await store.read(delivery(connection, delivered=2))
    await store.begin(given_up)
    taken_over = await other.read(delivery(connection, delivered=3))
    await other.begin(taken_over)
    store.interrupt_later(given_up)
    failing.append(taken_over)
    await store.settle_debts(5)
    record = (await store.read(delivery(connection, delivered=4))).record
    assert (record.unended, record.failed) == ((), 1)


async def test_a_second_debt_of_a_message_is_kept_while_the_first_is_paid(
    topology: Namespace, connection: Connection
) -> None:
    class GivenUpMeanwhile(AnswerLost):
        async def read(self, key: str) -> Entry | None:
            if second:
                store.interrupt_later(second.pop())
            return await super().read(key)

    second: list[Attempts] = []
    bucket = GivenUpMeanwhile(connection, topology.attempts_bucket)
    store = AttemptStore(bucket)
    attempts = [await store.read(delivery(connection, delivered=2))]
    await store.begin(attempts[0])
    attempts.append(await store.read(delivery(connection, delivered=3)))
    await store.begin(attempts[1])
    store.interrupt_later(attempts[0])
    second.append(attempts[1])
    await store.settle_debts(5)
    assert await unended_is(bucket, 0)


async def test_a_cancellation_in_the_middle_of_a_begin_leaves_no_crash(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    bucket.may_write.clear()
    beginning = asyncio.create_task(store.begin(attempts))
    await bucket.writing.wait()
    beginning.cancel()
    interrupting = asyncio.create_task(store.interrupt(attempts))
    bucket.may_write.set()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    await interrupting
    assert await unended_is(bucket, 0)
    assert (await store.read(delivery(connection, delivered=3))).record == attempts.record


async def test_another_write_after_one_without_an_answer_counts_both(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    bucket.lose = True
    with pytest.raises(ServerUnavailableError):
        await store.begin(attempts)
    await store.interrupt(attempts)
    assert await unended_is(bucket, 0)


async def test_a_settled_message_leaves_no_record_though_an_interruption_was_written_meanwhile(
    bucket: AnswerLost, connection: Connection
) -> None:
    mine, other = AttemptStore(bucket), AttemptStore(bucket)
    given_up = await mine.read(delivery(connection, delivered=2))
    await mine.begin(given_up)
    taken_over = await other.read(delivery(connection, delivered=3))
    await other.begin(taken_over)
    mine.interrupt_later(given_up)
    await mine.settle_debts(5)
    await other.forget(taken_over)
    assert await bucket.keys() == []
    mine.interrupt_later(taken_over)
    await mine.settle_debts(5)
    assert await bucket.keys() == [], "a debt of a message that is gone is gone"


async def test_the_record_of_another_stream_is_not_deleted_with_a_settled_message(
    bucket: Bucket, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection))
    await store.fail(attempts, FAILURE, AT)
    newer = await store.read(delivery(connection, stored_ns=STORED_NS + 1))
    await store.fail(newer, FAILURE, AT)
    await store.forget(attempts)
    assert await bucket.keys() == ["7"]


async def test_a_record_that_does_not_decode_counts_as_empty_and_is_logged_once(
    bucket: Bucket, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await bucket.create("7", b"by hand")
    store = AttemptStore(bucket)
    for _ in range(2):
        attempts = await store.read(delivery(connection, delivered=2))
        assert attempts.record == AttemptRecord(STORED_NS)
    (line,) = caplog.messages
    assert line.startswith(f"the record 7 in the bucket {bucket.name} cannot be read, and counts as empty: ")
    await store.fail(attempts, FAILURE, AT)
    assert (await store.read(delivery(connection, delivered=3))).record.failed == 1


async def test_a_record_that_changes_without_end_is_left(topology: Namespace, connection: Connection) -> None:
    class Restless(Bucket):
        async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
            if revision and (entry := await super().read(key)) is not None:
                await super().replace(key, entry.value, ttl, entry.revision)
            return await super().replace(key, value, ttl, revision)

    store = AttemptStore(Restless(connection, topology.attempts_bucket))
    await store.fail(await store.read(delivery(connection)), FAILURE, AT)
    with pytest.raises(StaleAttemptError, match="the record of message 7 changed 10 times during a write"):
        await store.begin(await store.read(delivery(connection, delivered=2)))


@asynccontextmanager
async def at_work(store: AttemptStore) -> AsyncIterator[None]:
    """Run the store beside the block."""
    task = asyncio.create_task(store.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def unended_is(bucket: Bucket, count: int) -> bool:
    """Whether the record of message 7 counts so many crashes."""
    entry = await bucket.read("7")
    assert entry is not None
    return msgspec.json.decode(entry.value, type=AttemptRecord).crashes == count
