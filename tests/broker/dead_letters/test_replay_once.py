"""Replays and removals that are killed at any point, or run at the same time: each task is enqueued exactly once."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.dead_letters.dead_tasks import remove_dead_task
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.testing import wait_until
from support.dead_letters import DeadLetterBox, Interposed, KilledError, die
from support.queues import edit_stream

LIMIT = 40
"""More requests than one run makes."""


async def killed_somewhere_and_run_again(box: DeadLetterBox, at: int, after: bool) -> bool:
    """Whether there was a request to be killed at."""
    try:
        await box.replay_all(Interposed(box.connection, at, die, after))
    except KilledError:
        await box.replay_all()
        return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_run_that_is_killed_at_any_request_and_run_again_enqueues_once(box: DeadLetterBox, after: bool) -> None:
    for at in range(1, LIMIT):
        await box.add()
        (dead_task,) = await box.dead_tasks()
        await box.advise(dead_task.sequence, "MSG_TERMINATED")
        killed = await killed_somewhere_and_run_again(box, at, after)
        await box.put_back(at)
        assert (await box.letters(), await box.markers()) == (0, 0), f"killed at request {at}"
        if not killed:
            break
    assert 10 < at < LIMIT - 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_killed_run_enqueues_a_message_once_that_the_server_gave_up(box: DeadLetterBox, after: bool) -> None:
    for at in range(1, LIMIT):
        sequence = await box.put(headers={"Task-Name": "a:B"})
        await box.advise(sequence)
        await box.advise(sequence)  # as in a cluster
        killed = await killed_somewhere_and_run_again(box, at, after)
        tasks = await box.put_back(at)
        assert tasks[-1].headers["Task-Id"] == str(sequence)
        assert await box.task(sequence) is None
        assert (await box.letters(), await box.markers()) == (0, 0), f"killed at request {at}"
        if not killed:
            break
    assert 10 < at < LIMIT - 1


async def test_a_run_that_dies_again_and_again_ends_with_every_task_enqueued_once(box: DeadLetterBox) -> None:
    for _ in range(5):
        await box.add()
    for at in range(3, LIMIT):
        with_deaths = Interposed(box.connection, at, die, after=bool(at % 2))
        try:
            await box.replay_all(with_deaths)
        except KilledError:
            continue
        break
    await box.put_back(5)
    assert (await box.letters(), await box.markers()) == (0, 0)


async def test_a_second_run_between_any_two_requests_enqueues_nothing_twice(box: DeadLetterBox) -> None:
    for at in range(1, LIMIT):
        await box.add()
        both = Interposed(box.connection, at, box.replay_all)
        await box.replay_all(both)
        await box.put_back(at)
        assert (await box.letters(), await box.markers()) == (0, 0), f"the other ran before request {at}"
        if both.requests < at:
            break
    assert 10 < at < LIMIT - 1


async def test_a_run_long_after_a_killed_one_enqueues_nothing_twice(box: DeadLetterBox) -> None:
    await edit_stream(box.connection, box.names.later_stream, duplicate_window=100_000_000)
    await box.add()
    (dead_task,) = await box.dead_tasks()
    for at in range(1, LIMIT):
        with pytest.raises(KilledError):
            await Replayer(Interposed(box.connection, at, die), box.names).replay(dead_task)  # type: ignore[arg-type]
        if await box.markers():
            break
    probe = (f"{box.names.name}.state.probe", b"", {"Nats-Msg-Id": "probe"})
    await publish(box.connection, *probe)

    async def the_server_has_forgotten() -> bool:
        return not (await publish(box.connection, *probe)).duplicate

    await wait_until(the_server_has_forgotten, description="the duplicate window has passed")
    await Replayer(box.connection, box.names).replay(dead_task)
    await box.put_back(1)
    assert (await box.letters(), await box.markers()) == (0, 0)


async def test_runs_at_the_same_time_enqueue_each_task_once(box: DeadLetterBox) -> None:
    for _ in range(10):
        await box.add()
    await asyncio.gather(*(box.replay_all() for _ in range(4)))
    await box.put_back(10)
    assert (await box.letters(), await box.markers()) == (0, 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_removal_that_is_killed_anywhere_can_be_repeated(box: DeadLetterBox, after: bool) -> None:
    for at in range(1, LIMIT):
        await box.add()
        (dead_task,) = await box.dead_tasks()
        await box.advise(dead_task.sequence, "MSG_TERMINATED")
        (dead_task,) = await box.dead_tasks()
        try:
            await remove_dead_task(Interposed(box.connection, at, die, after), box.names, dead_task)  # type: ignore[arg-type]
        except KilledError:
            for each in await box.dead_tasks():
                assert each.has_dead_letter
                await remove_dead_task(box.connection, box.names, each)
        else:
            break
        assert await box.letters() == 0
    assert 2 < at < LIMIT - 1
