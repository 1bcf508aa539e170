"""The attempt records of messages, in a real bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import Entry
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore, StaleAttemptError
from diracx.tasks.testing import wait_until
from support.deliveries import fake_delivery

STORED_NS = 1_790_000_000_000_000_123
AT = datetime(2026, 12, 1, 6, tzinfo=UTC)
FAILURE = Failure("ValueError", "no such owner: Größe", "Traceback...", "host-1-small", AT)


def delivery(connection: Connection, sequence: int = 7, delivered: int = 1, stored_ns: int = STORED_NS) -> Delivery:
    return fake_delivery(connection, sequence, delivered=delivered, stored_ns=stored_ns)


class AnswerLost(Bucket):
    """A bucket whose next answer is lost, though the write is not; or that is away, or slow to write."""

    lose = False
    away = False

    def __init__(self, connection: Connection, name: str) -> None:
        super().__init__(connection, name)
        self.writing = asyncio.Event()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.refused = 0

    async def read(self, key: str) -> Entry | None:
        if self.away:
            self.refused += 1
            raise ServerUnavailableError("away")
        return await super().read(key)

    async def replace(self, key: str, value: bytes, ttl: timedelta | None, revision: int) -> int:
        self.writing.set()
        await self.may_write.wait()
        stored = await super().replace(key, value, ttl, revision)
        if self.lose:
            self.lose = False
            raise ServerUnavailableError("no answer")
        return stored


@pytest.fixture
def bucket(connection: Connection, topology: Namespace) -> AnswerLost:
    return AnswerLost(connection, topology.attempts_bucket)


async def test_a_first_delivery_is_untried_and_costs_no_read(bucket: Bucket, connection: Connection) -> None:
    store = AttemptStore(bucket)
    attempts = store.untried(delivery(connection))
    assert attempts is not None
    assert attempts.record == AttemptRecord(STORED_NS)
    assert store.untried(delivery(connection, delivered=2)) is None
    await store.forget(attempts)
    assert await bucket.keys() == []


async def test_a_record_lives_from_the_first_failure_to_the_settlement(bucket: Bucket, connection: Connection) -> None:
    store = AttemptStore(bucket)
    attempts = store.untried(delivery(connection))
    assert attempts is not None
    await store.fail(attempts, FAILURE, AT)
    assert store.untried(delivery(connection)) is None, "known from now on, whatever the count of the server"

    again = await AttemptStore(bucket).read(delivery(connection, delivered=2))
    assert again.record == attempts.record
    assert (again.record.failed, again.record.failures, again.record.not_before) == (1, (FAILURE,), AT)
    assert (again.record.crashes, again.record.exhausted) == (0, None)
    await store.begin(again)
    assert again.record.crashes == 1, "a crash until it has ended"
    await store.fail(again, FAILURE, AT + timedelta(hours=1))
    assert (again.record.failed, again.record.crashes, len(again.record.failures)) == (2, 0, 2)

    last = await store.read(delivery(connection, delivered=3))
    await store.begin(last)
    await store.exhaust(last, FAILURE, "no retry is left")
    stored = (await store.read(delivery(connection, delivered=4))).record
    assert (stored.failed, stored.crashes, stored.exhausted) == (3, 0, "no retry is left")

    await store.forget(last)
    assert await bucket.keys() == []
    assert store.untried(delivery(connection)) is not None


async def test_the_record_is_json_that_a_person_can_read(bucket: Bucket, connection: Connection) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection))
    await store.fail(attempts, FAILURE, AT)
    entry = await bucket.read("7")
    assert entry is not None
    assert entry.value.decode() == (
        '{"stored_ns":1790000000000000123,"unended":[],"unknown":0,"failed":1,"failures":[{"type":"ValueError",'
        '"message":"no such owner: Größe","traceback":"Traceback...","worker":"host-1-small",'
        '"at":"2026-12-01T06:00:00Z"}],"not_before":"2026-12-01T06:00:00Z","exhausted":null,'
        f'"dropped":false,"writer":"{attempts.id}.fail"}}'
    )


async def test_an_execution_that_was_interrupted_is_no_crash_and_no_failure(
    bucket: Bucket, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection, delivered=2))
    await store.interrupt(attempts)
    assert await bucket.keys() == [], "nothing was begun, so nothing is taken back"
    attempts = await store.read(delivery(connection, delivered=2))
    await store.begin(attempts)
    await store.interrupt(attempts)
    await store.interrupt(attempts)
    record = (await store.read(delivery(connection, delivered=3))).record
    assert (record.unended, record.crashes, record.failed) == ((), 0, 0)


async def test_executions_that_never_end_are_counted_as_crashes(bucket: Bucket, connection: Connection) -> None:
    for crashes in range(3):
        store = AttemptStore(bucket)
        attempts = await store.read(delivery(connection, delivered=2 + crashes))
        assert attempts.record.crashes == crashes
        await store.begin(attempts)


async def test_of_two_workers_with_one_message_only_the_first_may_write(bucket: Bucket, connection: Connection) -> None:
    first, second = AttemptStore(bucket), AttemptStore(bucket)
    attempts = [await store.read(delivery(connection, delivered=2)) for store in (first, second)]
    await first.begin(attempts[0])
    writes: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: second.begin(attempts[1]),
        lambda: second.fail(attempts[1], FAILURE, AT),
        lambda: second.exhaust(attempts[1], FAILURE, "over"),
    )
    for write in writes:
        with pytest.raises(StaleAttemptError, match="another worker has message 7"):
            await write()
    assert not attempts[1].begun_here
    await second.forget(attempts[1])
    assert (await first.read(delivery(connection, delivered=3))).record.unended == (attempts[0].id,)


async def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection))
    bucket.lose = True
    with pytest.raises(ServerUnavailableError):
        await store.fail(attempts, FAILURE, AT)
    assert attempts.record.failed == 0
    await store.fail(attempts, FAILURE, AT)
    assert attempts.record.failed == 1
    assert (await store.read(delivery(connection, delivered=2))).record == attempts.record
    await store.forget(attempts)
    assert await bucket.keys() == []


async def test_an_exhausted_record_stays_as_it_is(bucket: Bucket, connection: Connection) -> None:
    store = AttemptStore(bucket)
    attempts = await store.read(delivery(connection))
    await store.exhaust(attempts, FAILURE, "the first reason")
    await store.exhaust(attempts, FAILURE, "the second reason")
    record = (await store.read(delivery(connection))).record
    assert (record.exhausted, record.failed) == ("the first reason", 1)


async def test_no_more_than_the_latest_20_failures_are_kept(bucket: Bucket, connection: Connection) -> None:
    store = AttemptStore(bucket)
    for n in range(25):
        attempts = await store.read(delivery(connection))
        await store.fail(attempts, Failure("E", str(n), "", "w", AT), AT)
    assert attempts.record.failed == 25
    assert [failure.message for failure in attempts.record.failures] == [str(n) for n in range(5, 25)]


async def test_a_record_that_is_too_large_loses_the_oldest_tracebacks_and_counts_on(
    bucket: AnswerLost, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    for n in range(5):
        attempts = await store.read(delivery(connection))
        await store.fail(attempts, Failure("E", str(n), "x" * 300_000, "w", AT), AT)
    attempts = await store.read(delivery(connection))
    bucket.lose = True
    for again in range(2):
        with nullcontext() if again else pytest.raises(ServerUnavailableError):
            await store.fail(attempts, Failure("E", "5", "x" * 300_000, "w", AT), AT)
    record = (await store.read(delivery(connection, delivered=2))).record
    assert record == attempts.record
    assert record.failed == 6
    assert [failure.message for failure in record.failures] == ["0", "1", "2", "3", "4", "5"]
    assert [bool(failure.traceback) for failure in record.failures] == [False, False, False, True, True, True]


async def test_the_record_of_a_message_in_a_stream_that_was_made_anew_is_not_this_ones(
    bucket: Bucket, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    await store.fail(await store.read(delivery(connection)), FAILURE, AT)
    newer = delivery(connection, stored_ns=STORED_NS + 1)
    attempts = await store.read(newer)
    assert attempts.record == AttemptRecord(STORED_NS + 1)
    await store.fail(attempts, FAILURE, AT)
    assert (await store.read(newer)).record.failed == 1


async def test_loading_learns_which_messages_have_a_record_and_orphaned_records_are_deleted_beside_the_work(
    bucket: Bucket, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    for sequence in (3, 10, 11):
        await store.fail(await store.read(delivery(connection, sequence)), FAILURE, AT)
    await bucket.create("no-number", b"{}")
    other = AttemptStore(bucket)
    await other.load_known(10)
    assert sorted(await bucket.keys()) == ["10", "11", "3", "no-number"], "nobody waited for that"
    removing = asyncio.create_task(other.run())

    async def removed() -> bool:
        return sorted(await bucket.keys()) == ["10", "11", "no-number"]

    await wait_until(removed, description="the orphaned record is gone")
    removing.cancel()
    assert other.untried(delivery(connection, 10)) is None
    assert other.untried(delivery(connection, 12)) is not None
    await store.forget(await store.read(delivery(connection, 10)))
    await other.load_known(11)
    assert other.untried(delivery(connection, 10)) is not None


async def test_a_record_that_is_written_while_the_known_ones_are_listed_is_known(
    topology: Namespace, connection: Connection
) -> None:
    class WrittenMeanwhile(Bucket):
        async def keys(self, below: str | None = None) -> list[str]:
            listed = await super().keys(below)
            await store.fail(failing, FAILURE, AT)
            await store.forget(settled)
            return listed

    store = AttemptStore(WrittenMeanwhile(connection, topology.attempts_bucket))
    failing = await store.read(delivery(connection, 10))
    settled = await store.read(delivery(connection, 11))
    await store.fail(settled, FAILURE, AT)
    await store.load_known(1)
    assert store.untried(delivery(connection, 10)) is None
    assert store.untried(delivery(connection, 12)) is not None


# What a living worker gave up


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
