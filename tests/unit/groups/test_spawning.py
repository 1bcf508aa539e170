"""What is spawned, before anything is stored: ids, checks, and the division into parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import MalformedTaskError, SendTaskError, TaskDefinitionError
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.groups.records import Ended, PartRecord
from diracx.tasks.plumbing.groups.spawning import MAX_CHILDREN, MAX_PART_CHILDREN, NewGroup, Spawner, child_headers
from diracx.tasks.plumbing.submitter import current_parent, current_task_id
from diracx.tasks.plumbing.wire.envelope import MAX_LABELS_BYTES, Envelope
from support.spawned import After, Child, UrgentChild, children, registry

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
MAX_PAYLOAD = 65_536


class Unregistered(BaseTask):
    async def execute(self) -> None: ...


async def new_group(
    some: Any,
    callback: Any = None,
    *,
    ttl_seconds: Any = 60,
    labels: Any = None,
    traceparent: str | None = None,
    max_payload: int = MAX_PAYLOAD,
) -> NewGroup:
    spawner = Spawner(registry(), max_payload, NOW)
    return await spawner.new_group(some, After() if callback is None else callback, ttl_seconds, labels, traceparent)


def executing(task_id: str) -> Execution:
    """Make this context that of an execution."""
    execution = Execution()
    current_task_id.set(task_id)
    current_parent.set(execution)
    return execution


async def test_a_parent_that_runs_again_makes_the_same_groups() -> None:
    executing("0192")
    assert [(await new_group(children(1))).id for _ in range(3)] == ["0192-0", "0192-1", "0192-2"]
    executing("0192")
    again = await new_group(children(1))
    assert (again.id, again.record.parent) == ("0192-0", "0192")


async def test_each_execution_counts_for_itself_and_its_children_in_their_order() -> None:
    async def parent(task_id: str) -> list[str]:
        executing(task_id)
        spawning = [new_group(children(1)), new_group(children(1))]
        return [group.id for group in await asyncio.gather(*spawning)]

    found = await asyncio.gather(*(asyncio.create_task(parent(name)) for name in "ab"))
    assert found == [["a-0", "a-1"], ["b-0", "b-1"]]


async def test_outside_of_a_task_each_group_is_a_new_one() -> None:
    found = [await new_group(children(1)) for _ in range(2)]
    assert len({group.id for group in found}) == 2
    assert {(len(group.id), group.record.parent) for group in found} == {(32, None)}


async def test_a_group_says_what_it_was_spawned_with() -> None:
    group = await new_group(
        [Child(1), UrgentChild(2), Child(3, "x")], ttl_seconds=90, labels={"vo": "lhcb"}, traceparent="00-a-b-01"
    )
    record = group.record
    assert (record.spawned, record.ttl_seconds, record.children, record.starts) == (NOW, 90.0, 3, (0,))
    assert (record.callback, record.labels, record.traceparent) == ("test:After", {"vo": "lhcb"}, "00-a-b-01")
    assert (record.ended, record.ended_at, record.ended_parts) == (None, None, ())
    (part,) = group.parts
    assert part == PartRecord(
        tasks=("test:Child", "test:UrgentChild"),
        queues=("normal.large", "realtime.medium"),
        children=(0, 1, 0),
        bodies=tuple(msgspec.Raw(body) for body in (b'{"n":1,"text":""}', b'{"n":2,"text":""}', b'{"n":3,"text":"x"}')),
    )


async def test_children_and_callback_carry_parent_labels_trace_and_place() -> None:
    executing("0192")
    group = await new_group([Child(1), UrgentChild(2)], labels={"vo": "ü"}, traceparent="00-a-b-01")
    shared: dict[str, Any] = {"parent": "0192", "submitted": NOW, "labels": {"vo": "ü"}, "traceparent": "00-a-b-01"}
    read = [Envelope.from_headers(each, 1) for each in child_headers(group.id, group.record, 0, group.parts[0])]
    assert read == [
        Envelope(name="test:Child", id="0192-0-0", group="0192-0:0", **shared),
        Envelope(name="test:UrgentChild", id="0192-0-1", group="0192-0:1", **shared),
    ]
    headers = group.callback_headers()
    assert "Nats-Msg-Id" not in headers
    wanted = Envelope(name="test:After", id="0192-0-callback", callback="0192-0", **shared)
    assert Envelope.from_headers(headers, 1) == wanted


async def test_children_of_later_parts_count_on() -> None:
    group = await new_group(children(MAX_PART_CHILDREN + 2))
    assert group.record.starts == (0, MAX_PART_CHILDREN)
    last = list(child_headers("g", group.record, 1, group.parts[1]))
    assert [(each["Task-Id"], each["Nats-Msg-Id"], each["Task-Group"]) for each in last] == [
        ("g-1000", "g-1000", "g:1000"),
        ("g-1001", "g-1001", "g:1001"),
    ]


async def test_a_group_without_children_has_ended() -> None:
    group = await new_group([])
    assert (group.parts, group.record.children, group.record.starts) == ((), 0, ())
    assert (group.record.ended, group.record.ended_at) == (Ended.COMPLETE, NOW)


@given(st.lists(st.integers(0, 30_000), max_size=60), st.integers(40_000, 70_000))
async def test_parts_have_all_children_in_order_and_fit_into_a_message(sizes: list[int], max_payload: int) -> None:
    tasks = [(UrgentChild if size % 2 else Child)(n, "x" * size) for n, size in enumerate(sizes)]
    group = await new_group(tasks, max_payload=max_payload)
    numbers = [msgspec.json.decode(body)["n"] for part in group.parts for body in part.bodies]
    assert numbers == list(range(len(sizes)))
    assert [group.record.part_of(n) for n in numbers] == [
        at for at, part in enumerate(group.parts) for _ in part.bodies
    ]
    for part in group.parts:
        lettered = msgspec.structs.replace(part, statuses="s" * len(part.children))
        assert len(msgspec.json.encode(lettered)) < max_payload - 1_024


async def test_small_children_fill_a_part_to_a_thousand() -> None:
    group = await new_group(children(2_500), max_payload=1_048_576)
    assert [len(part.children) for part in group.parts] == [1_000, 1_000, 500]


async def test_the_digest_tells_other_tasks_apart() -> None:
    digests = [
        (await new_group(some, callback)).record.digest
        for some, callback in (
            ([Child(1), Child(2)], After()),
            ([Child(2), Child(1)], After()),
            ([Child(1)], After()),
            ([UrgentChild(1), Child(2)], After()),
            ([Child(1), Child(2)], After("other")),
            ([], After()),
        )
    ]
    assert len(set(digests)) == 6
    assert (await new_group([Child(1), Child(2)], labels={"a": 1}, ttl_seconds=5)).record.digest == digests[0]


@pytest.mark.parametrize("which", ["child 1", "the callback"])
@pytest.mark.parametrize(
    ("task", "error", "text"),
    [
        (Unregistered(), TaskDefinitionError, r"Unregistered is not registered; list it"),
        (Child, TaskDefinitionError, r"Child is a class; submit a task"),
        (3, TaskDefinitionError, r"3 is no task"),
        (Child("one"), MalformedTaskError, r"Child: .*\$\.n"),  # type: ignore[arg-type]
        (
            Child(1, "x" * 60_000),
            SendTaskError,
            r"test:Child are 60\d\d\d bytes .* over the 57344 .* max_payload, 65536",
        ),
    ],
)
async def test_a_task_that_is_refused_is_named_by_its_index(
    which: str, task: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=rf"^{which}: .*{text}"):
        await (new_group([Child(0), task]) if which == "child 1" else new_group([Child(0)], task))


async def test_labels_count_against_the_room_of_a_child() -> None:
    labels = {"long": "x" * (MAX_LABELS_BYTES - 11)}
    with pytest.raises(SendTaskError, match=r"^child 0: .* over the 31\d\d\d that leave room for headers"):
        await new_group([Child(0, "x" * 40_000)], labels=labels)
    await new_group([Child(0, "x" * 30_000)], labels=labels)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["tags"], r"^the labels are a list; write a mapping"),
        ({"tags": ("a",)}, r"^the label 'tags' is tuple"),
    ],
)
async def test_labels_that_are_no_json_are_refused(labels: Any, text: str) -> None:
    with pytest.raises(MalformedTaskError, match=text):
        await new_group([], labels=labels)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 365 * 86_400 + 1, "60", None, True])
async def test_a_time_to_live_out_of_range_is_refused(seconds: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^ttl_seconds is .*; write a number of seconds above 0, at most 31536000, 365"
    ):
        await new_group([], ttl_seconds=seconds)


@pytest.mark.parametrize("some", [Child(1), "children", b"children", 3, None])
async def test_children_that_are_no_list_are_refused(some: Any) -> None:
    with pytest.raises(TypeError, match=r"^the children are a \w+; give a list of tasks"):
        await new_group(some)


async def test_endless_children_are_refused_at_the_limit() -> None:
    def endless() -> Iterator[Child]:
        child = Child(1)
        while True:
            yield child

    with pytest.raises(ValueError, match=rf"^a group has at most {MAX_CHILDREN} children: spawn several groups"):
        await new_group(endless())


async def test_children_beyond_one_batch_are_refused_with_the_remedy() -> None:
    with pytest.raises(SendTaskError, match=r"^the children are 500 parts .* at most 499: store their data elsewhere"):
        await new_group(children(500, "x" * 21_000), max_payload=32_768)


async def test_others_get_their_turn_while_many_children_are_encoded() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other(), context=copy_context())
    await asyncio.sleep(0)
    await new_group(children(5_000), max_payload=1_048_576)
    beside.cancel()
    assert turns > 5
