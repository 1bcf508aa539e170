"""`cancel`, beside worker processes of each size: what runs, what blocks, what was killed, and what it says."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.operations.in_flight import tasks_in_flight
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.long_tasks import install, submit
from support.processes import worker_process
from support.queues import set_ack_wait

ACK_WAIT = 1.5
BLOCKED_ACK_WAIT = 12.0
"""A worker says that its event loop is held up after a sixth of this."""
LONG = {Size.SMALL: "Long", Size.MEDIUM: "LongOnThread", Size.LARGE: "LongAndLarge"}


@pytest.fixture
async def long_tasks(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    install(bare)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    await on_the_server.set_up()
    return bare


async def all_is_settled(on_the_server: OnTheServer) -> bool:
    return await on_the_server.waiting() == await on_the_server.locks() == await on_the_server.attempts() == 0


async def test_running_tasks_of_each_size_end_and_none_is_retried_or_dead(
    long_tasks: CommandLine, on_the_server: OnTheServer
) -> None:
    with ExitStack() as stack:
        workers = {size: stack.enter_context(worker_process(long_tasks, size)) for size in LONG}
        for size, task in LONG.items():
            await submit(on_the_server, task, size, identity=f"a-{size}")
        for worker in workers.values():
            await long_tasks.wait_for_line(f"begin {worker.pid}")
        done = long_tasks("cancel", *(f"a-{size}" for size in LONG))
        if "asked; it has not ended yet" not in done.stderr:  # as on a machine that is too busy
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.splitlines() == [f"cancelled a-{size}: it has ended" for size in LONG]
        await wait_until(lambda: all_is_settled(on_the_server), description="all is settled", timeout=30)
        again = long_tasks("cancel", "a-small", "--json", "--task", "long:Long")
        assert again.returncode == 1
        found = json.loads(again.stdout)
        assert [(each["kind"], each["key"], each["done"]) for each in found] == [
            ("id", "a-small", False),
            ("task", "long:Long", False),
        ]
        assert list(found[0]) == [
            *("kind", "key", "at", "withdrawn", "waiting", "until", "cancelled", "finished"),
            *("running", "silent", "dead_letters", "done"),
        ]
        for size, worker in workers.items():
            assert long_tasks.journal().count(f"begin {worker.pid}") == 1
            assert long_tasks.journal().count(f"cancelled {worker.pid}") == 1
            assert f"cancelled long:{LONG[size]} (message " in worker.log
    assert await on_the_server.count(on_the_server.names.dead_letters_stream) == 0


async def test_code_that_does_not_yield_is_named_with_its_place(
    long_tasks: CommandLine, on_the_server: OnTheServer
) -> None:
    await set_ack_wait(on_the_server.connection, on_the_server.names, BLOCKED_ACK_WAIT, [Size.SMALL])
    with worker_process(long_tasks, Size.SMALL) as small, worker_process(long_tasks, Size.MEDIUM) as medium:
        await submit(on_the_server, "BlocksThread", Size.MEDIUM, b'{"seconds":600}', "on-a-thread")
        await long_tasks.wait_for_line(f"begin {medium.pid}")
        await submit(on_the_server, "BlocksLoop", Size.SMALL, identity="on-the-loop")

        async def the_loop_is_held_up() -> bool:
            workers = await tasks_in_flight(on_the_server.connection, on_the_server.names, ids=["on-the-loop"])
            return any(task.blocked_at for worker in workers for task in worker.tasks)

        await wait_until(the_loop_is_held_up, description="the worker says so", timeout=60)
        done = long_tasks("cancel", "on-a-thread", "on-the-loop")
        assert (done.returncode, done.stdout) == (1, "")
        on_a_thread, on_the_loop = done.stderr.splitlines()
        for line, task, worker in (
            (on_a_thread, "long:BlocksThread on-a-thread", medium),
            (on_the_loop, "long:BlocksLoop on-the-loop", small),
        ):
            assert line.startswith(f"{task} runs on ")
            assert str(worker.pid) in line
            assert "asked; it does not yield, at " in line
            assert line.endswith(" in execute")
        await medium.kill()
        (long_tasks.folder / "free").touch()


async def test_a_task_whose_worker_was_killed_never_begins_again(
    long_tasks: CommandLine, on_the_server: OnTheServer
) -> None:
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT, LONG)
    with worker_process(long_tasks, Size.SMALL) as killed:
        await submit(on_the_server, "Long", Size.SMALL)
        await long_tasks.wait_for_line(f"begin {killed.pid}")
        await killed.kill()
        done = long_tasks("cancel", "an-id")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "cancelled an-id: it waits in its queue, and is dropped when its turn comes\n"
    with worker_process(long_tasks, Size.SMALL) as successor:
        await wait_until(lambda: all_is_settled(on_the_server), description="it is settled", timeout=30)
        await successor.logs("cancelled long:Long (message 1): cancelled by ")
    assert long_tasks.journal() == [f"begin {killed.pid}"]


def test_what_names_nothing_is_refused(bare: CommandLine) -> None:
    cases = {
        (): "nothing is named; give ids of tasks, --task or --group",
        ("",): "it is empty",
        ("--group", ""): "it is empty",
        ("--task", "SyncOwners"): "write <category>:<ClassName>",
    }
    for arguments, done in zip(cases, bare.each([["cancel", *each] for each in cases]), strict=True):
        assert done.returncode == 2
        assert cases[arguments] in done.stderr
