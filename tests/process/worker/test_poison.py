"""A task that kills its worker takes nobody with it for good."""

from __future__ import annotations

import subprocess

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.queues import set_ack_wait

BYSTANDERS = 50
MOST_EXECUTIONS = 6
ACK_WAIT_SECONDS = 1.5


@pytest.fixture
def deadly(bare: CommandLine, server: EmbeddedServer) -> CommandLine:
    """The command line with a task installed that kills its worker, and the shared server."""
    points = task_points("deadly", "lollygag_tasks.tasks", ("Kills", "Bystander"))
    install_extension(bare.folder / "site", "lollygag_tasks", points)
    bare.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return bare


class Workers:
    """So many workers, each replaced when it is gone."""

    def __init__(self, command_line: CommandLine, count: int) -> None:
        self._command_line = command_line
        self._count = count
        self._running: list[subprocess.Popen[str]] = []
        self.killed = 0

    def see_to_them(self) -> None:
        for process in list(self._running):
            if process.poll() is not None:
                self.killed += 1
                self._running.remove(process)
        while len(self._running) < self._count:
            self._running.append(self._command_line.start("worker", "--worker-size", "small", "--log-level", "error"))


@pytest.mark.slow
# With one worker all others are there each time that it is killed, and look as guilty.
@pytest.mark.parametrize("count", [1, 2])
async def test_a_task_that_kills_its_worker_ends_as_a_dead_letter_and_all_others_get_done(
    deadly: CommandLine, on_the_server: OnTheServer, count: int
) -> None:
    await on_the_server.set_up()
    await set_ack_wait(on_the_server.connection, on_the_server.names, ACK_WAIT_SECONDS, [Size.SMALL])
    await submit(on_the_server, [f'Bystander {{"number":{n}}}' for n in range(BYSTANDERS // 2)])
    await submit(on_the_server, ["Kills {}"])
    await submit(on_the_server, [f'Bystander {{"number":{n}}}' for n in range(BYSTANDERS // 2, BYSTANDERS)])
    workers = Workers(deadly, count)

    async def nothing_waits() -> bool:
        workers.see_to_them()
        return not await on_the_server.waiting()

    await wait_until(nothing_waits, description="everything is settled", timeout=120)
    journal = deadly.journal()
    executions = journal.count("begin Kills")
    assert 5 <= executions <= MOST_EXECUTIONS
    assert workers.killed == executions
    assert {line for line in journal if line.startswith("end")} == {f"end Bystander {n}" for n in range(BYSTANDERS)}
    (letter,) = deadly.json("dlq", "list")
    assert letter["task"] == "deadly:Kills"
    assert letter["reason"] == "poison: 5 executions began and never ended"


async def submit(on_the_server: OnTheServer, tasks: list[str]) -> None:
    subject = on_the_server.names.task_subject(Priority.NORMAL, Size.SMALL)
    for task in tasks:
        name, _, body = task.partition(" ")
        await publish(on_the_server.connection, subject, body.encode(), {"Task-Name": f"deadly:{name}"})
