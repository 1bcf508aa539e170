"""The commands of `backup.md`, with the accounts of `nats/`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.stream_messages import subjects_of
from diracx.tasks.testing import wait_until
from support.mesh import TaskMesh
from support.nats_command import OperatorShell
from support.pages import BACKUP, blocks
from support.sample_tasks import Greet
from support.secured import password, secured_server

CONTEXT = (
    "nats context add diracx --server $NATS_URL --user diracx-operator --password $DIRACX_OPERATOR_PASSWORD --select"
)
DUE, FOR_NOW = 5, 3


async def messages(connection: Connection, stream: str) -> int:
    return int((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


@pytest.mark.nats_command
async def test_a_mesh_that_stood_still_is_restored_with_each_task_once(tmp_path: Path) -> None:
    backup, restore = (block.commands for block in blocks(BACKUP))
    with secured_server("diracx") as server:
        shell = OperatorShell(server, tmp_path, "diracx", folder=tmp_path)
        await shell.type_in(CONTEXT)
        url = server.url.replace("127.0", f"diracx-operator:{password('diracx', 'operator')}@127.0")
        async with TaskMesh.open(url, "diracx") as mesh:
            mesh.register(Greet)
            for number in range(FOR_NOW):
                await Greet(name=f"now {number}").schedule()
            soon = datetime.now(UTC) + timedelta(seconds=0.2)
            for number in range(DUE):
                await Greet(name=f"due {number}").schedule(at_time=soon)
            await Greet(name="later").schedule(at_time=datetime.now(UTC) + timedelta(days=1))

            async def waiting() -> int:
                return await messages(mesh.connection, "DIRACX_TASKS")

            async def all_wait() -> bool:
                return await waiting() == FOR_NOW + DUE

            await wait_until(all_wait, description="all that is due waits", timeout=30)
            for command in backup:
                await shell.type_in(command)
            for stream in (await mesh.connection.api("STREAM.NAMES"))["streams"]:
                await mesh.connection.api(f"STREAM.DELETE.{stream}")
            access = f"DIRACX_TASKS_NATS_URL={url} "
            for command in restore:
                await shell.type_in(access + command if command.startswith("diracx-task-run") else command)
            # What comes twice comes with the source: it is set up once it answers.
            await wait_until(lambda: is_sourced(mesh.connection), description="DIRACX_TASKS sources", timeout=30)
            assert await waiting() == FOR_NOW + DUE
            assert len(await subjects_of(mesh.connection, "DIRACX_LATER", "diracx.delayed.*")) == 1
            await Greet(name="new").schedule(at_time=datetime.now(UTC) + timedelta(seconds=0.2))
            await wait_until(lambda: holds(mesh.connection, FOR_NOW + DUE + 1), description="it falls due", timeout=30)
            assert (await mesh.burst()).processed == FOR_NOW + DUE + 1


async def holds(connection: Connection, number: int) -> bool:
    return await messages(connection, "DIRACX_TASKS") == number


async def is_sourced(connection: Connection) -> bool:
    (source,) = (await connection.api("STREAM.INFO.DIRACX_TASKS"))["sources"]
    return int(source["active"]) >= 0
