"""The console script with a small distribution of tasks, with and without a server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.wire.names import Namespace
from support.command_line import CommandLine, OnTheServer, isolated_environment
from support.distributions import install_extension

DEAD_SERVER = "nats://127.0.0.1:1"
"""No server listens there: `call` embeds one, every other command exits 69."""

TASKS = (
    "SyncOwnersTask",
    "OwnerCleanupTask",
    "Typed",
    "Dies",
    "Retried",
    "Exits",
    "Limited",
    "AsksForRetry",
    "Recovers",
    "Waits",
    "Stubborn",
    "Submits",
    "Spawns",
)
BROKEN = ("Unpreparable", "NoDataclass")
MEASURED = ("cli", "embedded")
"""The folders of tests whose processes are measured with `--cov`. Elsewhere processes run what is measured in one."""


@pytest.fixture(scope="module", autouse=True)
def coverage_of_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave most processes unmeasured: to measure one doubles the time of its start."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.relative_to(Path(__file__).parent).parts[0] not in MEASURED:
            for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS_")]:
                patch.delenv(name)
        yield


@pytest.fixture
def bare(tmp_path: Path, namespace: str) -> Iterator[CommandLine]:
    """The command line with no tasks installed and no server reachable."""
    environment = isolated_environment(tmp_path, DEAD_SERVER, namespace)
    command_line = CommandLine(environment | {"LOLLYGAG_FOLDER": str(tmp_path), "COLUMNS": "80"}, tmp_path)
    yield command_line
    for process in command_line.started:
        with process:
            process.kill()


@pytest.fixture
def extension(bare: CommandLine) -> CommandLine:
    """The command line with the distribution `lollygag-tasks` installed, and no server reachable."""
    points = {task: f"lollygag_tasks.tasks:{task}" for task in (*TASKS, *BROKEN)}
    install_extension(
        bare.folder / "site",
        "lollygag_tasks",
        {
            "diracx.tasks.lollygag": points | {"Gone": "lollygag_tasks.nowhere:Gone"},
            "diracx.lock_object_types": {"lollygag": "lollygag_tasks.tasks"},
        },
    )
    return bare


@pytest.fixture
def with_server(extension: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """The same, with the shared server."""
    extension.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return extension


@pytest.fixture
async def on_the_server(server: EmbeddedServer, namespace: str) -> AsyncIterator[OnTheServer]:
    """A view of the shared server; the streams and buckets of the test are removed at its end."""
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="test", inbox_prefix="_INBOX_test") as connection:
        view = OnTheServer(connection, Namespace(namespace))
        yield view
        await view.remove()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The empty file that the tasks of `lock_tasks` write to."""
    path = tmp_path / "journal"
    path.touch()
    return path
