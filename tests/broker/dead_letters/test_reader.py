"""Dead tasks as operators see them, with and without a dead letter."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.dead_letters import dead_tasks as dead_tasks_module
from diracx.tasks.plumbing.dead_letters import reader as reader_module
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.retry_policies import ExponentialBackoff, RetryPolicyBase
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.dead_letters import HEADERS, DeadLetterBox, Interposed, die
from support.mesh import TaskMesh


def reader(box: DeadLetterBox) -> DeadLetterReader:
    return DeadLetterReader(box.connection, box.names)


@dataclasses.dataclass
class Waits(BaseTask):
    """Fails, and would be tried again much later."""

    why: str
    size = Size.SMALL
    retry_policy: ClassVar[RetryPolicyBase] = ExponentialBackoff(base_delay_seconds=0.01, max_retries=20)

    async def execute(self) -> None:
        raise ValueError(self.why)


async def limit_deliveries(mesh: TaskMesh, most: int) -> None:
    """As an operator would."""
    stream, consumer = mesh.namespace.tasks_stream, mesh.namespace.consumer(Priority.NORMAL, Size.SMALL)
    config = (await mesh.connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"] | {"max_deliver": most}
    subject = f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}"
    await mesh.connection.api(subject, {"stream_name": stream, "config": config})


async def test_a_task_that_the_server_gave_up_is_listed_and_runs_again_when_replayed(mesh: TaskMesh) -> None:
    mesh.allows_residue = True
    mesh.register(Waits)
    box = DeadLetterBox(mesh.connection, mesh.namespace)
    # The worker brings the queue back to what it should be, so the limit comes after.
    async with mesh.working() as worker:
        await limit_deliveries(mesh, 2)
        task_id = await Waits("mice").schedule(labels={"vo": "lhcb", "n": [1]})
        await wait_until(box.letters, description="the server gave it up")
        (letter,) = await reader(box).all()
        assert (letter.task, letter.id, letter.args, letter.labels) == (
            "test:Waits",
            task_id,
            {"why": "mice"},
            {"vo": "lhcb", "n": [1]},
        )
        assert letter.reason == "given up on normal-small after 2 deliveries, message 1"
        assert (letter.attempts, [error.message for error in letter.errors]) == (2, ["mice", "mice"])
        assert letter.submitted is not None
        assert letter.submitted <= letter.died
        assert await reader(box).get(letter.seq) == letter
        await box.replay_all()
        await wait_until(box.letters, description="the server gave it up again")
        worker.stop()
    (again,) = await reader(box).all()
    assert (again.id, again.attempts) == (task_id, 2)
    assert await box.task(1) is None


async def test_an_advisory_whose_message_is_gone_says_so(box: DeadLetterBox) -> None:
    await box.advise(7, "MSG_TERMINATED")
    (letter,) = await reader(box).all()
    assert letter.reason == "terminated on normal-small after 3 deliveries, message 7 (the message is gone)"
    assert (letter.task, letter.args, letter.died) == (None, None, datetime(2100, 1, 1, tzinfo=UTC))
    assert await reader(box).get(letter.seq) == letter


async def test_an_advisory_is_not_matched_with_a_later_message_of_the_same_sequence(box: DeadLetterBox) -> None:
    await box.advise(await box.put(), at="2020-01-01T00:00:00Z")
    (letter,) = await reader(box).all()
    assert letter.reason.endswith("(the message is gone)")
    assert (letter.task, letter.args) == (None, None)


async def test_an_advisory_that_belongs_to_a_dead_letter_is_not_listed_on_its_own(box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    for kind in ("MSG_TERMINATED", "MAX_DELIVERIES", "MSG_TERMINATED"):
        await box.advise(7, kind)
    assert [letter.seq for letter in await reader(box).all()] == [1]
    assert [await reader(box).get(seq) is not None for seq in (1, 2, 3, 4, 5)] == [True, False, False, False, False]
    (dead_task,) = await box.dead_tasks()
    assert [advisory.seq for advisory in dead_task.advisories] == [2, 3, 4]


async def test_an_advisory_of_an_earlier_message_of_that_sequence_is_listed_on_its_own(box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.advise(7, at=(datetime.now(UTC) - timedelta(days=1)).isoformat())
    assert [letter.seq for letter in await reader(box).all()] == [1, 2]
    assert await reader(box).get(2) is not None


async def test_an_advisory_dated_by_a_slow_clock_still_belongs_to_its_dead_letter(box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.advise(7, at=(datetime.now(UTC) - timedelta(seconds=30)).isoformat())
    assert [letter.seq for letter in await reader(box).all()] == [1]


async def test_an_advisory_that_cannot_be_read_hides_nothing(box: DeadLetterBox) -> None:
    subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{box.names.tasks_stream}.normal-small"
    await publish(box.connection, subject, b"{}", {})
    await box.add()
    unread, letter = await reader(box).all()
    assert unread.reason.startswith("an advisory that cannot be read: ")
    assert (letter.task, letter.args) == (HEADERS["Task-Name"], {"owner_name": "alice"})


async def test_the_latest_are_read_from_the_end_in_few_requests(box: DeadLetterBox) -> None:
    await box.fill(800)
    everything = await reader(box).all()
    counted = Interposed(box.connection, 0, die)
    found = await DeadLetterReader(counted, box.names).latest(50, lambda letter: True)  # type: ignore[arg-type]
    assert found == everything[-50:]
    # The size, and one window in one batch; and if that begins with an advisory, the question whose it is.
    assert counted.requests <= 3
    assert await reader(box).latest(50, lambda letter: True, before=found[0].seq) == everything[-100:-50]
    assert [each async for each in reader(box).newest(100)] == found
    assert [each async for each in reader(box).newest(10_000)] == everything


async def test_the_latest_of_a_few_are_found_however_far_back(box: DeadLetterBox) -> None:
    other = {"Task-Name": "a:Rare"}
    await box.add(headers=other)
    await box.fill(300)
    await box.add(headers=other)
    await box.fill(100)

    async def latest(limit: int, name: str | None) -> list[int]:
        letters = await reader(box).latest(limit, lambda letter: letter.task == name)
        return [letter.seq for letter in letters]

    everything = await reader(box).all()
    rare = [letter.seq for letter in everything if letter.task == "a:Rare"]
    assert len(rare) == 2
    assert await latest(3, "a:Rare") == rare
    assert await latest(1, "a:Rare") == rare[1:]
    assert await latest(10**30, HEADERS["Task-Name"]) == [each.seq for each in everything if each.seq not in rare]


async def test_reading_back_ends_at_the_time_that_is_asked_for(box: DeadLetterBox) -> None:
    await box.fill(300, advised=False)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    found = await reader(box).latest(250, lambda letter: letter.seq < 200)
    assert len(found) == 199
    counted = Interposed(box.connection, 0, die)
    early = DeadLetterReader(counted, box.names)  # type: ignore[arg-type]
    assert await early.latest(5, lambda letter: letter.seq < 100, since=tomorrow) == []
    assert counted.requests == 2


async def test_a_task_with_several_advisories_and_no_dead_letter_is_listed_once(box: DeadLetterBox) -> None:
    await box.advise(7)
    await box.fill(150)
    await box.advise(7)
    await box.advise(7)
    letters = await reader(box).all()
    assert len(letters) == 151
    assert letters[0].reason.startswith("given up")
    # Its first advisory is beyond what had to be read.
    (latest,) = await reader(box).latest(1, lambda letter: True)
    assert (latest.seq, latest.reason) == (302, letters[0].reason)
    assert len(await reader(box).latest(1_000, lambda letter: True)) == 151


async def test_where_there_is_no_stream_there_is_nothing(connection: Connection, names: Namespace) -> None:
    nowhere = DeadLetterReader(connection, names)
    assert await nowhere.size() is None
    assert await nowhere.all() == await nowhere.latest(5, lambda letter: True) == []


@pytest.mark.parametrize("between", [0, 3], ids=["follows", "follows later"])
async def test_an_advisory_is_part_of_its_dead_letter_wherever_it_stands(
    box: DeadLetterBox, monkeypatch: pytest.MonkeyPatch, between: int
) -> None:
    for module in (reader_module, dead_tasks_module):
        monkeypatch.setattr(module, "NEAR_LETTERS", 2)
    await box.advise(7)  # A worker that did not know of it stored the dead letter.
    await box.add(sequence=7)
    for number in range(between):
        await box.add(sequence=100 + number)
    await box.advise(7, "MSG_TERMINATED")
    assert len(await reader(box).all()) == 1 + between
    tasks = {task.sequence: [each.seq for each in task.advisories] for task in await box.dead_tasks()}
    assert tasks[7] == [1, 3 + between]
    assert [letter.seq for letter in await reader(box).latest(9, lambda letter: True)] == list(range(2, 3 + between))


async def test_dead_tasks_up_to_a_sequence_have_the_advisories_that_came_after(box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.advise(7, "MSG_TERMINATED")
    await box.add(sequence=8)
    found = [task async for task in dead_tasks_module.dead_tasks(box.connection, box.names, last=1)]
    assert [(task.seq, [each.seq for each in task.advisories]) for task in found] == [(1, [2])]


async def test_two_dead_letters_of_one_sequence_are_two_dead_tasks(box: DeadLetterBox) -> None:
    await box.add(sequence=7)
    await box.add(sequence=7, headers={"Task-Name": "a:Other"})
    assert [task.seq for task in await box.dead_tasks()] == [1, 2]


async def test_dead_tasks_without_a_dead_letter_are_selected_and_removed_alike(box: DeadLetterBox) -> None:
    subject = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{box.names.tasks_stream}.normal-small"
    await publish(box.connection, subject, b"{}", {})
    await box.advise(7)

    async def selected(text: str) -> list[dead_tasks_module.DeadTask]:
        found = dead_tasks_module.dead_tasks(box.connection, box.names, lambda letter: text in letter.reason)
        return [task async for task in found]

    (unreadable,) = await selected("cannot be read")
    (given_up,) = await selected("given up")
    assert (unreadable.seq, unreadable.sequence, given_up.seq, given_up.sequence) == (1, 0, 2, 7)
    await dead_tasks_module.remove_dead_task(box.connection, box.names, unreadable)
    assert [task.seq for task in await box.dead_tasks()] == [2]
