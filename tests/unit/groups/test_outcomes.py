"""What a callback reads of its group."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import msgspec
import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.callbacks import ChildOutcome, GroupOutcomes
from diracx.tasks.plumbing.callbacks.outcomes import OutcomeCounts
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, UnretryableError
from diracx.tasks.plumbing.groups.outcomes import stored_outcomes
from diracx.tasks.plumbing.groups.records import OutcomesRecord, PartRecord, StoredOutcome
from diracx.tasks.plumbing.groups.store import Stored
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.wire.ending import OutcomeError
from diracx.tasks.testing import run_task
from support.group_store import MemoryGroupStore, group_of, lost


class Summary(BaseTask):
    """A callback."""

    async def execute(self, outcomes: GroupOutcomes) -> tuple[str, OutcomeCounts, list[Any]]:
        return outcomes.group_id, await outcomes.counts(), [each.value async for each in outcomes]


def ended(store: MemoryGroupStore, number: int, letters: str, *outcomes: StoredOutcome) -> None:
    part = store.parts[number]
    store.parts[number] = Stored(msgspec.structs.replace(part.record, statuses=letters), part.sequence)
    if outcomes:
        store.outcomes[number, outcomes[0].index] = msgspec.json.encode(OutcomesRecord(outcomes))


@pytest.fixture
def store() -> MemoryGroupStore:
    """A group of three parts, of which the last has not begun."""
    store = group_of(3, 2, 1)
    ended(store, 0, "sfe", StoredOutcome(1, error=OutcomeError("ValueError", "no")))
    ended(store, 1, "cs", StoredOutcome(4, value=msgspec.Raw(b'{"a":1}')))
    return store


async def test_each_child_has_its_status_value_and_error(store: MemoryGroupStore) -> None:
    outcomes = stored_outcomes("g", store)
    assert [asdict(each) | {"error": each.error} for each in [each async for each in outcomes]] == [
        {"index": index, "id": f"g-{index}", "task": "test:Child", "status": status, "value": value, "error": error}
        for index, (status, value, error) in enumerate(
            [
                ("succeeded", None, None),
                ("failed", None, OutcomeError("ValueError", "no")),
                ("expired", None, None),
                ("cancelled", None, None),
                ("succeeded", {"a": 1}, None),
                ("missing", None, None),
            ]
        )
    ]


async def test_the_counts_of_all_parts(store: MemoryGroupStore) -> None:
    counts = await stored_outcomes("g", store).counts()
    assert counts == OutcomeCounts(children=6, succeeded=2, failed=1, expired=1, cancelled=1, missing=1)


@pytest.mark.parametrize(
    ("first", "limit", "indexes"), [(0, 2, [0, 1]), (2, 2, [2, 3]), (1, 100, [1, 2, 3, 4, 5]), (6, 1, []), (9, 1, [])]
)
async def test_a_page_may_begin_and_end_within_a_part(
    store: MemoryGroupStore, first: int, limit: int, indexes: list[int]
) -> None:
    page = await stored_outcomes("g", store).page(first, limit)
    assert [each.index for each in page] == indexes


async def test_pages_in_order_read_each_part_once(store: MemoryGroupStore) -> None:
    outcomes = stored_outcomes("g", store)
    found = [each.index for first in range(6) for each in await outcomes.page(first, 1)]
    assert found == list(range(6))
    assert store.reads == 6 + 3 + 3, "the group for each page, each part and its outcomes once"


@pytest.mark.parametrize(("first", "limit"), [(-1, 1), (0, 0)])
async def test_a_page_that_is_none_is_refused(store: MemoryGroupStore, first: int, limit: int) -> None:
    with pytest.raises(ValueError, match="count from 0"):
        await stored_outcomes("g", store).page(first, limit)


async def test_outcomes_that_are_gone_or_cannot_be_read_are_no_reason_for_a_retry(store: MemoryGroupStore) -> None:
    del store.parts[1]
    with pytest.raises(UnretryableError, match="group g cannot be had: they were kept for a day after its time"):
        await stored_outcomes("g", store).counts()
    for unreadable in (0, None):
        store.unreadable = {unreadable}
        with pytest.raises(UnretryableError, match=f"cannot be had: record {unreadable} cannot be read"):
            await stored_outcomes("g", store).counts()
    store.unreadable, store.group = set(), None
    with pytest.raises(UnretryableError, match="its records are gone, since its time to live was over long ago"):
        await stored_outcomes("g", store).page()


async def test_outcomes_of_a_part_that_cannot_be_read(store: MemoryGroupStore) -> None:
    outcomes = stored_outcomes("g", store)

    def damages() -> None:
        if store.reads == 3:
            store.unreadable = {0}

    store.before = damages
    with pytest.raises(UnretryableError, match="record 0 cannot be read"):
        await outcomes.page()


async def test_a_part_with_other_children_than_the_group_says_ends_no_page(store: MemoryGroupStore) -> None:
    store.parts = dict.fromkeys(store.parts, Stored(PartRecord(tasks=(), queues=(), children=()), 10))
    for look in (stored_outcomes("g", store).page, stored_outcomes("g", store).counts):
        with pytest.raises(UnretryableError, match="its part 0 has not the children that it should have"):
            await look()


async def test_a_server_that_does_not_answer_is_a_reason_for_a_retry(store: MemoryGroupStore) -> None:
    store.before = lost
    with pytest.raises(ServerUnavailableError):
        await stored_outcomes("g", store).counts()


async def test_a_task_on_a_loop_of_its_own_asks_the_loop_of_the_worker(store: MemoryGroupStore) -> None:
    outcomes = stored_outcomes("g", store)
    counts, page = await asyncio.to_thread(lambda: asyncio.run(_ask(outcomes)))
    assert (counts.children, len(page)) == (6, 6)


async def _ask(outcomes: GroupOutcomes) -> tuple[OutcomeCounts, list[ChildOutcome]]:
    return await outcomes.counts(), await outcomes.page()


async def test_a_task_that_is_the_callback_of_no_group_is_told_so() -> None:
    with pytest.raises(UnretryableError, match="asks for GroupOutcomes, and is the callback of no group: give it to"):
        await run_task(Summary())


async def test_a_test_of_a_callback_gives_it_outcomes() -> None:
    given = GroupOutcomes.of(
        [ChildOutcome(index=0, status="succeeded", value=3), ChildOutcome(index=1, status="missing", id="mine")]
    )
    expected = ("group", OutcomeCounts(children=2, succeeded=1, missing=1), [3, None])
    assert await Summary().execute(given) == expected
    assert [each.id for each in await given.page()] == ["group-0", "mine"]
    assert await Injector(providers={GroupOutcomes: lambda: given}).prepare(Summary)(Summary()) == expected
