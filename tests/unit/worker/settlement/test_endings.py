"""What a finished task tells its group."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.execution.job import Cancelled, Dead, Discarded, Outcome, Retry, Succeeded
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.results.store import ResultStore
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.ending import Ending
from diracx.tasks.plumbing.wire.envelope import TASK_GROUP, TASK_ID, TASK_KEEP_RESULT, TASK_NAME
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.settlement.endings import Endings
from support.deliveries import fake_delivery
from support.group_store import FAILURE, MemoryGroupStore, completions_of, group_of

EARLIER = Failure("OSError", "before", "", "elsewhere", datetime(2026, 11, 1, tzinfo=UTC))


class Plain(BaseTask):
    """Keeps nothing."""

    async def execute(self) -> None:
        """Nothing."""


class Kept(Plain):
    """Keeps its result."""

    result_ttl_seconds = 60


class Results(ResultStore):
    """Notes what is to be kept."""

    def __init__(self) -> None:
        self.kept: list[tuple[Ending, float]] = []

    async def keep(self, ending: Ending, seconds: float) -> None:
        self.kept.append((ending, seconds))


def endings_of(store: MemoryGroupStore, results: Results) -> Endings:
    registry = TaskRegistry()
    registry.add("test:Plain", Plain)
    registry.add("test:Kept", Kept)
    return Endings(registry, results, completions_of(store), "here", ServerClock())


async def written(
    outcome: Outcome, record: AttemptRecord | None = None, headers: dict[str, str] | None = None
) -> tuple[MemoryGroupStore, Results]:
    store, results = group_of(2), Results()
    all_headers = {TASK_NAME: "test:Plain", TASK_ID: "g-1", TASK_GROUP: "g:1"} | (headers or {})
    delivery = fake_delivery(None, headers=all_headers)
    endings = endings_of(store, results)
    assert endings.concern(delivery.headers or {})
    await endings.write(delivery, outcome, record or AttemptRecord(1))
    return store, results


@pytest.mark.parametrize(
    ("outcome", "letter", "kind", "message"),
    [
        (Cancelled("an operator did"), "c", "TaskCancelledError", "an operator did"),
        (Discarded("too late", expired=True), "e", "TaskExpiredError", "too late"),
        (Discarded("no retry", FAILURE), "f", "ValueError", "no"),
        (Dead("no retry", FAILURE), "f", "ValueError", "no"),
        (Dead("poison"), "f", "TaskNeverRanError", "poison"),
    ],
)
async def test_a_child_that_did_not_succeed_counts_with_its_error(
    outcome: Outcome, letter: str, kind: str, message: str
) -> None:
    store, _ = await written(outcome)
    error = store.stored_outcomes[1].error
    assert error is not None
    assert (store.letters, error.type, error.message) == (f".{letter}", kind, message)


async def test_a_child_that_died_of_an_earlier_failure_counts_with_that() -> None:
    store, _ = await written(Dead("over"), AttemptRecord(1, failed=1, failures=(EARLIER,)))
    error = store.stored_outcomes[1].error
    assert error is not None
    assert (error.type, error.message) == ("OSError", "before")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({TASK_KEEP_RESULT: "5"}, 5),
        ({TASK_KEEP_RESULT: "soon"}, None),
        ({TASK_NAME: "test:Kept"}, 60),
        ({TASK_NAME: "test:Kept", TASK_KEEP_RESULT: "5"}, 5),
    ],
)
async def test_a_value_goes_to_the_callback_if_the_result_is_kept(
    headers: dict[str, str], seconds: float | None
) -> None:
    store, results = await written(Succeeded([1]), headers=headers)
    assert store.letters == ".s"
    assert [each.index for each in store.stored_outcomes.values()] == ([] if seconds is None else [1])
    assert [(each.value, kept) for each, kept in results.kept] == ([] if seconds is None else [([1], seconds)])


async def test_a_task_without_group_and_result_is_no_concern() -> None:
    endings: Any = endings_of(group_of(1), Results())
    assert not endings.concern({TASK_NAME: "test:Plain"})
    assert not endings.concern({})


async def test_a_message_of_nobody_counts_by_its_sequence() -> None:
    store, results = group_of(1), Results()
    endings = endings_of(store, results)
    await endings.write(fake_delivery(None, headers={TASK_GROUP: "g:0"}), Cancelled("x"), AttemptRecord(1))
    await endings.write(fake_delivery(None), Succeeded(), AttemptRecord(1))
    assert store.letters == "c"


async def test_an_outcome_that_does_not_end_its_task_is_refused() -> None:
    with pytest.raises(TypeError, match="does not end its task"):
        await written(Retry(EARLIER.at, EARLIER))
