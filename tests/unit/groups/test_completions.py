"""Completions of one process are merged, those of several contend, and each child has one letter for ever."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.groups import completions
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.records import LETTERS, Ended
from diracx.tasks.plumbing.results.record import value_json
from diracx.tasks.plumbing.wire.ending import Status
from diracx.tasks.testing import wait_until
from support.group_store import (
    MemoryGroupStore,
    completions_of,
    ending,
    failing,
    group_of,
    lost,
    sequences_of,
)

HOUR = timedelta(hours=1)


async def record(
    one: GroupCompletions, *indexes: int, status: Status = Status.SUCCEEDED, value: Any = None, group: str = "g"
) -> None:
    records = (one.record(f"{group}:{index}", ending(status, value), keeps_value=True) for index in indexes)
    async with asyncio.TaskGroup() as together:
        for each in records:
            together.create_task(each)


async def test_children_that_end_together_are_one_write() -> None:
    store = group_of(300, 1)
    await record(completions_of(store), *range(299))
    assert store.letters == "s" * 299 + ".."
    assert store.tries == 1


async def test_children_that_end_during_a_write_are_the_next_one() -> None:
    store = group_of(10)
    one = completions_of(store)
    async with asyncio.TaskGroup() as together:
        together.create_task(record(one, 0))
        await wait_until(lambda: store.tries == 1, description="the first write is under way")
        together.create_task(record(one, *range(1, 10)))
    assert sequences_of(store.changes) == [1, 9]


async def test_a_write_has_no_more_children_than_a_batch_may_need_messages() -> None:
    store = group_of(1_000)
    await record(completions_of(store), *range(1_000))
    assert sequences_of(store.changes) == [400, 400, 200]


async def test_values_that_are_large_together_go_into_several_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_MERGED_BYTES", 1_000)
    store = group_of(4)
    await record(completions_of(store), 0, 1, 2, value="x" * 400)
    assert sequences_of(store.changes) == [2, 1]
    await record(completions_of(store), 3, value="x" * 2_000)
    assert store.letters == "ssss"


async def test_values_that_are_large_together_do_not_join_a_write_that_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completions, "MAX_MERGED_BYTES", 1_000)
    store = group_of(6)
    one = completions_of(store)
    await record(one, 0)
    await record(completions_of(store), 1)
    await record(one, 2, 3, 4, 5, value="x" * 400)
    assert (store.tries, sequences_of(store.changes)) == (5, [1, 1, 2, 2])


async def test_the_records_are_read_once() -> None:
    store = group_of(10)
    one = completions_of(store)
    for index in range(9):
        await record(one, index)
    assert (store.tries, store.reads) == (9, 2)


async def test_who_loses_a_write_reads_again_and_takes_along_what_came_meanwhile() -> None:
    store = group_of(10)
    one, other = completions_of(store), completions_of(store)
    await record(one, 0)
    await record(other, 1)
    await record(one, 2, 3)
    assert store.letters == "ssss......"
    assert store.tries == 4


async def test_the_first_letter_of_a_child_stays() -> None:
    store = group_of(3)
    one, other = completions_of(store), completions_of(store)
    await record(one, 0, status=Status.FAILED)
    await record(one, 0)
    await record(other, 0, status=Status.CANCELLED)
    assert store.letters == "f.."
    assert len(store.changes) == 1


async def test_two_deliveries_of_a_child_that_end_together_are_one_letter() -> None:
    store = group_of(2)
    await record(completions_of(store), 0, 0, value=1)
    assert store.letters == "s."
    assert len(store.stored_outcomes) == 1


@pytest.mark.parametrize("status", Status)
async def test_each_way_to_end_has_its_letter_and_its_error(status: Status) -> None:
    store = group_of(2)
    await record(completions_of(store), 1, status=status)
    assert store.letters == f".{LETTERS[status]}"
    outcome = store.stored_outcomes.get(1)
    if status is Status.SUCCEEDED:
        assert outcome is None
    else:
        assert outcome is not None
        assert outcome.error is not None
        assert (outcome.error.type, outcome.error.message) == ("ValueError", "no")


async def test_a_write_whose_answer_is_lost_is_found_by_reading() -> None:
    store = group_of(1)
    store.after = failing(lost())
    await record(completions_of(store), 0)
    assert (store.letters, store.tries, store.releases) == ("s", 1, 1)


async def test_without_an_answer_it_is_tried_again() -> None:
    store = group_of(2)
    store.before = failing(lost(), lost(), None, None, lost())
    await record(completions_of(store), 0)
    assert store.letters == "s."


async def test_without_an_answer_for_long_no_message_is_settled() -> None:
    store = group_of(2)
    store.before = lost
    one = completions_of(store, patience_seconds=0)
    results = await asyncio.gather(
        *(one.record(f"g:{index}", ending(), keeps_value=False) for index in range(2)), return_exceptions=True
    )
    assert [type(each) for each in results] == [ServerUnavailableError] * 2


async def test_a_refusal_reaches_every_child_of_the_write_and_the_next_one_is_tried() -> None:
    store = group_of(3)
    store.before = failing(None, None, ServerError("full"))
    one = completions_of(store)
    results = await asyncio.gather(
        *(one.record(f"g:{index}", ending(), keeps_value=False) for index in range(2)), return_exceptions=True
    )
    assert [str(each) for each in results] == ["full"] * 2
    await record(one, 0)
    assert store.letters == "s.."


async def test_the_last_child_releases_the_callback_in_the_same_write() -> None:
    store = group_of(2)
    one = completions_of(store)
    await record(one, 0)
    assert store.releases == 0
    await record(one, 1, status=Status.FAILED)
    (last,) = store.changes[1:]
    assert store.group is not None
    assert (store.releases, last.released is not None) == (1, True)
    assert (store.group.record.ended, store.group.record.ended_parts) == (Ended.COMPLETE, (0,))
    assert store.group.record.ended_at is not None


async def test_a_part_that_ends_is_noted_and_the_last_one_releases_the_callback() -> None:
    store = group_of(2, 1, 2)
    one, other = completions_of(store), completions_of(store)
    assert await ended_after(store, one, 0, 1, 3) == (0,)
    assert await ended_after(store, other, 2) == (0, 1)
    assert await ended_after(store, one, 1) == (0, 1), "it knows that its part has ended, and that the group knows"
    assert len(store.changes) == 2
    assert await ended_after(store, one, 4) == (0, 1, 2)
    assert store.releases == 1


async def ended_after(store: MemoryGroupStore, one: GroupCompletions, *indexes: int) -> tuple[int, ...]:
    await record(one, *indexes)
    assert store.group is not None
    return store.group.record.ended_parts


async def test_a_complete_part_of_which_the_group_does_not_know_is_noted_by_a_child_that_comes_again() -> None:
    store = group_of(1, 1)
    one = completions_of(store)
    await record(one, 0, 1)
    assert store.group is not None
    assert store.releases == 1
    done = store.group.record
    for forgotten in ((), (1,)):
        store.callback = group_of(1).callback
        store.group = type(store.group)(type(done)(**_fields(done, ended_parts=forgotten, ended=None)), 500)
        await record(completions_of(store), 0)
        await record(completions_of(store), 1)
        assert store.group.record.ended is Ended.COMPLETE
    assert store.releases == 3


def _fields(record: Any, **changes: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__} | changes


@pytest.mark.parametrize(("age", "ended"), [(2 * HOUR, Ended.EXPIRED), (HOUR / 2, Ended.CANCELLED)])
async def test_a_group_whose_callback_is_gone_is_closed_all_the_same(
    age: timedelta, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = group_of(1, age=age, ttl=HOUR)
    store.callback = None
    await record(completions_of(store), 0)
    assert store.group is not None
    assert (store.group.record.ended, store.releases) == (ended, 0)
    (line,) = caplog.messages
    assert (
        line
        == {
            Ended.EXPIRED: "the last child of the group g has ended after its callback test:After",
            Ended.CANCELLED: "the group g has ended; its callback test:After was withdrawn, and does not run",
        }[ended]
    )


async def test_a_callback_that_goes_while_it_is_released_is_decided_anew() -> None:
    store = group_of(1, age=2 * HOUR, ttl=HOUR)

    def goes() -> None:
        if store.reads == 3:
            store.callback = None  # it has fallen due

    store.before = goes
    await record(completions_of(store), 0)
    assert store.group is not None
    assert (store.group.record.ended, store.releases, store.letters) == (Ended.EXPIRED, 0, "s")


async def test_a_group_that_is_over_takes_no_completion_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = group_of(1, 1)
    one = completions_of(store)
    store.parts.clear()
    await record(one, 0)
    store.group = None
    await record(completions_of(store), 0)
    await record(one, 1, 0)
    assert caplog.messages == ["the group g is over, and its records are gone: further completions change nothing"] * 2
    assert not store.changes


async def test_a_group_that_goes_while_its_last_part_ends_is_left() -> None:
    store = group_of(1, 1)

    def goes() -> None:
        if store.reads == 3:
            store.group = None

    store.before = goes
    await record(completions_of(store), 0)
    assert (store.letters, store.group) == ("s.", None)


async def test_a_place_that_is_none_is_logged_and_counts_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    store = group_of(2)
    one = completions_of(store)
    await one.record("nonsense", ending(), keeps_value=False)
    await record(one, 7, 8)
    assert caplog.messages == [
        "test:Child has ended, and is counted in no group: 'nonsense' is no <group>:<number>",
        "the group g has 2 children, and none with the index 7",
    ]
    assert not store.tries


@pytest.mark.parametrize("unreadable", [0, None])
async def test_a_record_that_cannot_be_read_keeps_no_message_and_no_other_part(
    unreadable: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    store = group_of(1, 2)
    store.unreadable = {unreadable}
    await record(completions_of(store), 0, 1)
    assert store.letters == ("..." if unreadable is None else ".s.")
    (line,) = caplog.messages
    assert line.startswith(f"the group g does not count all completions: record {unreadable} cannot be read; its")


async def test_a_part_with_other_children_than_the_group_says_is_unreadable(caplog: pytest.LogCaptureFixture) -> None:
    store = group_of(2)
    store.parts = group_of(1).parts
    await record(completions_of(store), 1)
    assert "its part 0 has not the children that it should have" in caplog.text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "$ is nan"),
        ({1, object()}, "JSON has no object there"),
        ({1: 2, "1": 3}, "two of its keys are '1' as JSON"),
        ("x" * 5_000, "as JSON, and at most 4000 fit"),
    ],
)
async def test_a_value_that_cannot_be_kept_leaves_a_success_without_it(
    value: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = group_of(2)
    await record(completions_of(store), 0, value=value)
    assert (store.letters, store.stored_outcomes) == ("s.", {})
    assert "test:Child id succeeded, but the callback of its group will not see its value" in caplog.text
    assert problem in caplog.text


async def test_a_value_is_kept_only_if_it_is_asked_for() -> None:
    store = group_of(4)
    one = completions_of(store)
    await one.record("g:0", ending(value=1), keeps_value=False)
    await one.record("g:1", ending(value={"a": [1, None]}), keeps_value=True)
    await one.record("g:2", ending(value=None), keeps_value=True)
    assert {index: bytes(each.value) for index, each in store.stored_outcomes.items()} == {1: b'{"a":[1,null]}'}  # type: ignore[arg-type]


class Model(BaseModel):
    x: int = 1


async def test_a_callback_sees_the_value_that_a_result_has() -> None:
    store = group_of(1)
    await record(completions_of(store), 0, value=Model())
    assert bytes(store.stored_outcomes[0].value) == value_json(Model())  # type: ignore[arg-type]


async def test_outcomes_that_do_not_fit_into_one_record_are_several() -> None:
    store = group_of(5, 1)
    await record(completions_of(store), 4, 3, 2, 1, 0, 5, value="x" * 1_500)
    assert sorted(store.outcomes) == [(0, 0), (0, 2), (0, 4), (1, 5)]
    assert sorted(store.stored_outcomes) == [0, 1, 2, 3, 4, 5]


async def test_no_cancellation_of_its_waiter_breaks_a_completion_off() -> None:
    store = group_of(2)
    one = completions_of(store)

    async def settle() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # as the code of a task may
        await one.record("g:0", ending(), keeps_value=False)
        return "settled"

    waiter = asyncio.create_task(settle())
    await wait_until(lambda: store.tries == 1, description="the write is under way")
    waiter.cancel()
    assert await waiter == "settled"
    assert store.letters == "s."


async def test_the_end_of_the_loop_ends_those_that_wait() -> None:
    store = group_of(2)
    never = asyncio.Event()
    store_write = store.write

    async def hangs(change: Any) -> Any:
        await never.wait()
        return await store_write(change)

    store.write = hangs  # type: ignore[method-assign]
    waiter = asyncio.create_task(completions_of(store).record("g:0", ending(), keeps_value=False))
    await wait_until(lambda: store.reads == 2, description="it writes")
    (writer,) = [each for each in asyncio.all_tasks() if each.get_name() == "completions of g"]
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_a_process_remembers_few_groups() -> None:
    latest: Any = completions._Latest(2)
    for key in ("a", "b", "a", "c"):
        latest.put(key, key)
    latest.forget("z")
    assert [latest.get(key) for key in ("a", "b", "c")] == ["a", None, "c"]
