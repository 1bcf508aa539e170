"""A large group while workers and the server are killed: one callback, after the last child, with every outcome."""

from __future__ import annotations

import os
import signal

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine
from support.distributions import install_extension, task_points
from support.processes import LoggedProcess
from support.queues import set_ack_wait

ACK_WAIT = 3.0
WITHIN_SECONDS = 120.0


@pytest.fixture
def fan_tasks(bare: CommandLine, own_server: EmbeddedServer) -> CommandLine:
    """The command line with the distribution, on a server that may be killed."""
    install_extension(
        bare.folder / "site", "fan_tasks", task_points("fan", "fan_tasks.tasks", ["Parent", "Part", "Gathers"])
    )
    bare.environment |= {"FAN_TASKS_FOLDER": str(bare.folder), "DIRACX_TASKS_NATS_URL": own_server.url}
    return bare


def small_worker(command_line: CommandLine) -> LoggedProcess:
    """A worker that the fixture of the command line kills."""
    return LoggedProcess(command_line, "worker", "--worker-size", Size.SMALL.value, "--max-concurrent-tasks", "20")


class Lines:
    """The lines of the journal, by their event."""

    def __init__(self, command_line: CommandLine) -> None:
        self.all = command_line.journal

    def of(self, event: str) -> list[str]:
        return [line for line in self.all() if line.startswith(f"{event} ")]

    async def until(self, event: str, count: int) -> None:
        """Wait until an event has happened so often."""
        await wait_until(
            lambda: len(self.of(event)) >= count, description=f"{count} times {event}", timeout=WITHIN_SECONDS
        )

    def check(self, children: int) -> None:
        """Check that the parent spawned once, each child ran, and one callback saw all of it, after the last child."""
        assert len({line.split()[1] for line in self.of("spawned")}) == 1, (
            "the parent ran again: nothing more is spawned"
        )
        assert len(self.of("spawned")) >= 2
        assert {int(line.split()[1]) for line in self.of("ran")} == set(range(children))
        ran = [(place, line.split()) for place, line in enumerate(self.all()) if line.startswith("ran ")]
        first_runs = {words[1]: place for place, words in reversed(ran)}
        assert self.all().index(self.of("gathers")[0]) > max(first_runs.values()), "it begins after the last child"
        failed = children // 10
        assert self.of("gathered") == [
            f"gathered {children} [('failed', {failed}), ('succeeded', {children - failed})]"
        ]


@pytest.mark.parametrize("children", [5_000])
async def test_one_callback_sees_every_outcome_though_workers_and_the_server_are_killed(
    fan_tasks: CommandLine, own_server: EmbeddedServer, namespace: str, children: int
) -> None:
    lines = Lines(fan_tasks)
    async with JetStreamBroker.connect(
        own_server.url, namespace=namespace, registry=TaskRegistry(), role="operator", bind=False
    ) as broker:
        await set_ack_wait(broker.connection, broker.namespace, ACK_WAIT)
        workers = [small_worker(fan_tasks) for _ in range(3)]
        assert fan_tasks("submit", "fan:Parent", "--args", f"[{children}]").returncode == 0

        await lines.until("spawned", 1)
        spawner = int(lines.of("spawned")[0].split()[2])
        os.kill(spawner, signal.SIGKILL)
        workers.append(small_worker(fan_tasks))

        await lines.until("ran", children // 4)
        own_server.kill()
        own_server.start()

        await lines.until("ran", children // 2)
        next(worker for worker in workers if worker.pid != spawner).process.kill()
        workers.append(small_worker(fan_tasks))

        await lines.until("gathered", 1)

        async def settled() -> bool:
            info = await broker.connection.api(f"STREAM.INFO.{broker.namespace.tasks_stream}")
            return int(info["state"]["messages"]) == 0

        await wait_until(settled, description="every task is settled", timeout=WITHIN_SECONDS)

    lines.check(children)
