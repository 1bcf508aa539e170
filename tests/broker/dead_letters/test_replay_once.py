"""Replays and removals that are killed, or run beside others: each task is enqueued once, and nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.dead_letters.removal import remove
from diracx.tasks.plumbing.dead_letters.replay import Replayer
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.testing import wait_until
from support.dead_letters import Interposed, KilledError, Morgue, die
from support.queues import edit_stream

LIMIT = 40
"""More requests than one run makes."""


async def killed_somewhere_and_run_again(morgue: Morgue, at: int, after: bool) -> bool:
    """Whether there was a request to be killed at."""
    try:
        await morgue.replay_all(Interposed(morgue.connection, at, die, after))
    except KilledError:
        await morgue.replay_all()
        return True
    return False


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_run_that_is_killed_at_any_request_and_run_again_enqueues_once(morgue: Morgue, after: bool) -> None:
    for at in range(1, LIMIT):
        await morgue.bury()
        (remains,) = await morgue.remains()
        await morgue.advise(remains.sequence, "MSG_TERMINATED")
        killed = await killed_somewhere_and_run_again(morgue, at, after)
        await morgue.put_back(at)
        assert (await morgue.letters(), await morgue.notes()) == (0, 0), f"killed at request {at}"
        if not killed:
            break
    assert 10 < at < LIMIT - 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_so_does_one_of_a_message_that_the_server_gave_up(morgue: Morgue, after: bool) -> None:
    for at in range(1, LIMIT):
        sequence = await morgue.put(headers={"Task-Name": "a:B"})
        await morgue.advise(sequence)
        await morgue.advise(sequence)  # as in a cluster
        killed = await killed_somewhere_and_run_again(morgue, at, after)
        tasks = await morgue.put_back(at)
        assert tasks[-1].headers["Task-Id"] == str(sequence)
        assert await morgue.task(sequence) is None
        assert (await morgue.letters(), await morgue.notes()) == (0, 0), f"killed at request {at}"
        if not killed:
            break
    assert 10 < at < LIMIT - 1


async def test_a_run_that_dies_again_and_again_ends_with_every_task_enqueued_once(morgue: Morgue) -> None:
    for _ in range(5):
        await morgue.bury()
    for at in range(3, LIMIT):
        with_deaths = Interposed(morgue.connection, at, die, after=bool(at % 2))
        try:
            await morgue.replay_all(with_deaths)
        except KilledError:
            continue
        break
    await morgue.put_back(5)
    assert (await morgue.letters(), await morgue.notes()) == (0, 0)


async def test_another_run_between_any_two_requests_does_not_enqueue_it_twice(morgue: Morgue) -> None:
    for at in range(1, LIMIT):
        await morgue.bury()
        both = Interposed(morgue.connection, at, morgue.replay_all)
        await morgue.replay_all(both)
        await morgue.put_back(at)
        assert (await morgue.letters(), await morgue.notes()) == (0, 0), f"the other ran before request {at}"
        if both.requests < at:
            break
    assert 10 < at < LIMIT - 1


async def test_a_run_long_after_one_that_was_killed_does_not_enqueue_it_twice(morgue: Morgue) -> None:
    await edit_stream(morgue.connection, morgue.names.later_stream, duplicate_window=100_000_000)
    await morgue.bury()
    (remains,) = await morgue.remains()
    for at in range(1, LIMIT):
        with pytest.raises(KilledError):
            await Replayer(Interposed(morgue.connection, at, die), morgue.names).replay(remains)  # type: ignore[arg-type]
        if await morgue.notes():
            break
    probe = (f"{morgue.names.name}.state.probe", b"", {"Nats-Msg-Id": "probe"})
    await publish(morgue.connection, *probe)

    async def the_server_has_forgotten() -> bool:
        return not (await publish(morgue.connection, *probe)).duplicate

    await wait_until(the_server_has_forgotten, description="the duplicate window has passed")
    await Replayer(morgue.connection, morgue.names).replay(remains)
    await morgue.put_back(1)
    assert (await morgue.letters(), await morgue.notes()) == (0, 0)


async def test_runs_at_the_same_time_enqueue_each_task_once(morgue: Morgue) -> None:
    for _ in range(10):
        await morgue.bury()
    await asyncio.gather(*(morgue.replay_all() for _ in range(4)))
    await morgue.put_back(10)
    assert (await morgue.letters(), await morgue.notes()) == (0, 0)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_removal_that_is_killed_anywhere_leaves_what_can_be_removed(morgue: Morgue, after: bool) -> None:
    for at in range(1, LIMIT):
        await morgue.bury()
        (remains,) = await morgue.remains()
        await morgue.advise(remains.sequence, "MSG_TERMINATED")
        (remains,) = await morgue.remains()
        try:
            await remove(Interposed(morgue.connection, at, die, after), morgue.names, remains)  # type: ignore[arg-type]
        except KilledError:
            for each in await morgue.remains():
                assert each.buried
                await remove(morgue.connection, morgue.names, each)
        else:
            break
        assert await morgue.letters() == 0
    assert 2 < at < LIMIT - 1
