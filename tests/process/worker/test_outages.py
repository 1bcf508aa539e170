"""A service or a setting that is missing when a worker starts stops the tasks that need it, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.testing import wait_until
from support.command_line import CommandLine, OnTheServer
from support.distributions import install_extension, task_points
from support.health_door import get
from support.processes import LoggedProcess, free_port, worker_process

SMALL = ("OpenDoor", "Sweep", "Paint")
MEDIUM = ("OpenDoorSlowly", "SweepSlowly")


@pytest.fixture
def door_port() -> int:
    return free_port()


@pytest.fixture
def garage(bare: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer, door_port: int) -> CommandLine:
    """The command line with a service that is down: nothing listens on its port."""
    points = task_points("garage", "garage_tasks.tasks", (*SMALL, *MEDIUM))
    install_extension(bare.folder / "site", "garage_tasks", points)
    bare.environment |= {
        "DIRACX_TASKS_NATS_URL": server.url,
        "GARAGE_DOOR_PORT": str(door_port),
        "GARAGE_COLOUR_NAME": "red",
    }
    return bare


@asynccontextmanager
async def service(port: int) -> AsyncIterator[None]:
    """The service, which is up for the block."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


def submit(garage: CommandLine, task: str, arguments: str = "[]") -> None:
    done = garage("submit", f"garage:{task}", "--args", arguments)
    assert done.returncode == 0, done.stderr


def health_of(worker: LoggedProcess) -> str:
    line = next(line for line in worker.log.splitlines() if "health on http" in line)
    return f"{line.partition('health on ')[2].partition('/live')[0]}/ready"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "needing", "free"), [(Size.SMALL, "OpenDoor", "Sweep"), (Size.MEDIUM, "OpenDoorSlowly", "SweepSlowly")]
)
async def test_tasks_of_a_service_that_is_down_wait_uncounted_and_run_once_each_when_it_is_up(
    garage: CommandLine, on_the_server: OnTheServer, door_port: int, size: Size, needing: str, free: str
) -> None:
    for number in (1, 2, 3):
        submit(garage, needing, f"[{number}]")
    with worker_process(garage, size, "--health-port", "0", "--log-level", "debug") as worker:
        await worker.logs(f"not served: garage:{needing}: DoorSettings: ")
        await worker.logs(f"gave back garage:{needing} ")
        submit(garage, free, "[1]")
        await garage.wait_for_line("swept 1")
        assert get(health_of(worker)) == (200, "ok\n")
        (shown,) = garage.json("status")["workers"]
        assert list(shown["not_served"]) == [f"garage:{needing}"]
        assert not [line for line in garage.journal() if line.startswith("opened")]
        assert await on_the_server.waiting() == 3
        async with service(door_port):
            await worker.logs(f"served again: garage:{needing}: DoorSettings is open")

            async def done() -> bool:
                return await on_the_server.waiting() == 0

            await wait_until(done, description="all tasks are done", timeout=60)
            assert len([line for line in garage.journal() if line.startswith("opened")]) == 3
            assert garage.json("status")["workers"][0]["not_served"] == {}
            assert await on_the_server.attempts() == 0
            assert await worker.stop() == 0, worker.log
        assert worker.log.count("ERROR diracx.tasks.worker: not served:") == 1
        assert worker.log.count(f"INFO diracx.tasks.worker: gave back garage:{needing}") == 1, "once a minute"
        assert "will retry" not in worker.log
        assert "Traceback" not in worker.log


async def test_a_variable_that_is_not_set_is_named_and_not_tried_again(
    garage: CommandLine, on_the_server: OnTheServer, door_port: int
) -> None:
    del garage.environment["GARAGE_COLOUR_NAME"]
    submit(garage, "Paint")
    submit(garage, "OpenDoor", "[1]")
    async with service(door_port):
        with worker_process(garage, Size.SMALL) as worker:
            await worker.logs(
                "not served: garage:Paint: ColourSettings: set GARAGE_COLOUR_NAME (Field required); "
                "then start this worker again"
            )
            await worker.logs("gave back garage:Paint ")
            await garage.wait_for_line(f"opened 1 at {door_port}")
            assert await worker.stop() == 0, worker.log
        garage.environment["GARAGE_COLOUR_NAME"] = "blue"
        assert await on_the_server.waiting() == 1
        with worker_process(garage, Size.SMALL) as worker:
            await garage.wait_for_line("painted blue")
            assert await worker.stop() == 0, worker.log


async def test_a_worker_that_serves_nothing_goes_on_and_is_not_ready(garage: CommandLine, door_port: int) -> None:
    points = garage.folder / "site" / "garage_tasks-1.0.dist-info" / "entry_points.txt"
    points.write_text("[diracx.tasks.garage]\nOpenDoor = garage_tasks.tasks:OpenDoorSlowly\n")
    with worker_process(garage, Size.MEDIUM, "--health-port", "0") as worker:
        await worker.logs(
            "CRITICAL diracx.tasks.worker: this worker has nothing to do: no task is served: DoorSettings"
        )
        await worker.logs("health on http")

        def not_ready() -> bool:
            status, text = get(health_of(worker))
            return status == 503 and text.startswith("no task is served: DoorSettings: ConnectionRefusedError")

        await wait_until(not_ready, description="it says why it is not ready", timeout=30)
        async with service(door_port):
            await wait_until(lambda: get(health_of(worker)) == (200, "ok\n"), description="it is ready", timeout=30)
            assert await worker.stop() == 0, worker.log


async def test_a_service_that_is_down_on_one_thread_only_costs_the_tasks_that_come_there_no_attempt(
    garage: CommandLine, on_the_server: OnTheServer, door_port: int
) -> None:
    (garage.folder / "only").write_text("execution 1")
    async with service(door_port):
        with worker_process(garage, Size.MEDIUM, "--max-concurrent-tasks", "2") as worker:
            submit(garage, "OpenDoorSlowly", "[1, true]")
            await garage.wait_for_line("opened 1 on execution 1")
            submit(garage, "OpenDoorSlowly", "[2]")
            await worker.logs("not served on one of the threads: garage:OpenDoorSlowly: DoorSettings: ConnectionError")
            await worker.logs("gave back garage:OpenDoorSlowly ")
            assert await on_the_server.attempts() == 0
            submit(garage, "SweepSlowly", "[1]")
            await garage.wait_for_line("swept 1")
            (garage.folder / "released").touch()
            await garage.wait_for_line("opened 2 on execution 1")
            assert await worker.stop() == 0, worker.log
    assert await on_the_server.waiting() == 0
    assert "will retry" not in worker.log


async def test_call_refuses_a_service_that_is_down_in_one_line(garage: CommandLine) -> None:
    done = garage("call", "garage:OpenDoor", "--args", "[1]")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning:")]
    assert line.startswith("error: garage:OpenDoor needs DoorSettings, which cannot be opened: ConnectionRefusedError:")
    assert (done.returncode, done.stdout) == (2, "")
