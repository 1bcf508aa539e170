"""The console script with a small distribution of tasks, with and without a server."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.wire.names import Namespace
from support.command_line import CommandLine, OnTheServer
from support.paths import EXTENSIONS

DEAD_SERVER = "nats://127.0.0.1:1"
"""Nobody listens there: `call` embeds a server, the rest exits 69."""

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
)
BROKEN = ("Unpreparable", "NoDataclass")


@pytest.fixture
def bare(tmp_path: Path, namespace: str) -> Iterator[CommandLine]:
    """The command line with no tasks installed and no server reachable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DIRACX_")}
    environment |= {
        "PYTHONPATH": str(tmp_path / "site"),
        "DIRACX_TASKS_NATS_URL": DEAD_SERVER,
        "DIRACX_TASKS_NAMESPACE": namespace,
        "LOLLYGAG_FOLDER": str(tmp_path),
        "COLUMNS": "80",
    }
    command_line = CommandLine(environment, tmp_path)
    yield command_line
    for process in command_line.started:
        with process:
            process.kill()


@pytest.fixture
def extension(bare: CommandLine) -> CommandLine:
    """The command line with the distribution `lollygag-tasks` installed, and no server reachable."""
    points = "".join(f"{task} = lollygag_tasks.tasks:{task}\n" for task in (*TASKS, *BROKEN))
    site = bare.folder / "site"
    shutil.copytree(EXTENSIONS / "lollygag_tasks", site / "lollygag_tasks")
    # What an installer would leave beside it.
    info = site / "lollygag_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lollygag_tasks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[diracx.tasks.lollygag]\n{points}Gone = lollygag_tasks.nowhere:Gone\n\n"
        "[diracx.lock_object_types]\nlollygag = lollygag_tasks.tasks\n"
    )
    return bare


@pytest.fixture
def with_server(extension: CommandLine, server: EmbeddedServer, on_the_server: OnTheServer) -> CommandLine:
    """The same, with the shared server."""
    extension.environment["DIRACX_TASKS_NATS_URL"] = server.url
    return extension


@pytest.fixture
async def on_the_server(server: EmbeddedServer, namespace: str) -> AsyncIterator[OnTheServer]:
    """Look at the shared server; what the test created there is removed."""
    settings = ConnectionSettings(servers=(server.url,))
    async with Connection.open(settings, name="test", inbox_prefix="_INBOX_test") as connection:
        view = OnTheServer(connection, Namespace(namespace))
        yield view
        await view.remove()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the tasks of `lock_tasks` write, empty."""
    path = tmp_path / "journal"
    path.touch()
    return path
