"""Executions that fail although their lease has lapsed, e.g. because they blocked the loop: what is written down."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import msgspec
import pytest

from diracx.tasks.plumbing.execution.job import Dead, Discarded, Outcome, Retry, Succeeded
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement
from support.deliveries import fake_delivery, settlement_of
from support.mesh import TaskMesh

FAILURE = Failure("ValueError", "late", "Traceback...", "here", datetime(2026, 12, 1, tzinfo=UTC))
NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Retry(NOW, FAILURE), AttemptRecord(1, failed=1, failures=(FAILURE,), not_before=NOW)),
        (Dead("over", FAILURE), AttemptRecord(1, failed=1, failures=(FAILURE,), exhausted="over")),
        (Discarded("over", FAILURE), AttemptRecord(1, failed=1, failures=(FAILURE,), exhausted="over", dropped=True)),
        (Succeeded(), AttemptRecord(1)),
        (Dead("malformed"), AttemptRecord(1)),
    ],
    ids=["a retry", "a dead letter", "a drop", "a success", "nothing executed"],
)
async def test_a_failure_after_the_lease_lapsed_counts_and_anything_else_is_an_interruption(
    mesh: TaskMesh, outcome: Outcome, expected: AttemptRecord
) -> None:
    settlement, store, delivery = settled_by_hand(mesh)
    attempts = await store.read(delivery)
    await store.begin(attempts)
    await settlement.record_late("test:Fails", attempts, outcome)
    record = (await store.read(delivery)).record
    assert msgspec.structs.replace(record, writer="", deliveries=0) == expected
    mesh.allows_residue = True


async def test_a_failure_after_another_worker_has_begun_is_an_interruption(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settlement, store, delivery = settled_by_hand(mesh)
    lapsed = await store.read(delivery)
    await store.begin(lapsed)
    elsewhere = await store.read(delivery)
    await store.begin(elsewhere)
    await settlement.record_late("test:Fails", lapsed, Retry(NOW, FAILURE))
    assert "the late failure of test:Fails (message 1) is not recorded: another worker has message 1" in caplog.text
    record = (await store.read(delivery)).record
    assert (record.failed, record.unended) == (0, (elsewhere.id,))
    mesh.allows_residue = True


def settled_by_hand(mesh: TaskMesh) -> tuple[Settlement, AttemptStore, Delivery]:
    """A settlement with its store, and a delivery of a message that is in no stream."""
    store = AttemptStore(mesh.attempts)
    settlement = settlement_of(mesh, store)
    return settlement, store, fake_delivery(mesh.connection, 1, delivered=2, stored_ns=1)


async def test_a_task_that_is_dropped_for_an_earlier_failure_has_not_failed_again(mesh: TaskMesh) -> None:
    settlement, store, delivery = settled_by_hand(mesh)
    await store.fail(await store.read(delivery), FAILURE, NOW)
    attempts = await store.read(delivery)
    await settlement.record_late("test:Fails", attempts, Discarded("expired", attempts.record.last_failure))
    record = (await store.read(delivery)).record
    assert (record.failed, record.exhausted) == (1, None)
    mesh.allows_residue = True


async def test_a_late_failure_has_no_line_below_the_level_of_the_log(
    mesh: TaskMesh, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "diracx.tasks.worker")
    settlement, store, delivery = settled_by_hand(mesh)
    await settlement.record_late("test:Fails", await store.read(delivery), Retry(NOW, FAILURE))
    assert (await store.read(delivery)).record.failed == 1
    assert not caplog.messages
    mesh.allows_residue = True
