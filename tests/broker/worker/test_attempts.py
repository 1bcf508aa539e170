"""The attempt records of messages, in a real bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta

import pytest

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import attempts as attempts_module
from diracx.tasks.plumbing.worker.attempts import AttemptStore, StaleAttemptError
from diracx.tasks.testing import wait_until
from support.attempt_buckets import AT, FAILURE, STORED_NS, AnswerLost, delivery
from support.remembering import remembered


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
        f'"dropped":false,"writer":"{attempts.id}.fail","deliveries":1}}'
    )


async def test_deliveries_that_wrote_nothing_since_the_last_one_that_did_are_refusals(
    bucket: Bucket, connection: Connection
) -> None:
    store = AttemptStore(bucket)
    untried = store.untried(delivery(connection))
    assert untried is not None
    assert untried.refusals == 0
    assert (await store.read(delivery(connection, delivered=4))).refusals == 3, "no record is stored"
    attempts = await store.read(delivery(connection, delivered=5))
    await store.begin(attempts)
    assert attempts.refusals == 0
    await store.fail(attempts, FAILURE, AT)
    assert (await AttemptStore(bucket).read(delivery(connection, delivered=6))).refusals == 0
    assert (await AttemptStore(bucket).read(delivery(connection, delivered=8))).refusals == 2
    assert (await store.read(delivery(connection, delivered=1))).refusals == 0, "the server was killed, and forgot"
    assert (await store.read(delivery(connection, delivered=9, stored_ns=5))).refusals == 8, "another message"


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


async def test_messages_that_other_workers_finish_are_forgotten(
    bucket: Bucket, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "MAX_KNOWN", 20)
    store, other = AttemptStore(bucket), AttemptStore(bucket)
    running = asyncio.create_task(store.run())
    for sequence in range(1, 200):
        await store.fail(await store.read(delivery(connection, sequence)), FAILURE, AT)
        if sequence != 7:
            await other.forget(await other.read(delivery(connection, sequence)))
    # It asks beside the work, so how far it has got by now is its own affair.
    await wait_until(lambda: remembered(store) < 100, description="those that others finished are forgotten")
    running.cancel()
    assert store.untried(delivery(connection, 7)) is None, "it has a record"
    assert store.untried(delivery(connection, 8)) is not None
