"""The source of the task stream begins where nothing is lost, also after an update of its definition."""

from __future__ import annotations

import dataclasses
from functools import partial

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.assets import assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.topology import ensure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until


async def test_the_beginning_of_the_source_is_updated_and_the_source_keeps_its_place(
    connection: Connection, names: Namespace
) -> None:
    """A leader that does not know how far the queue had come would begin with the last message of the queue."""
    wanted = assets(names)
    (queue,) = (asset for asset in wanted if "sources" in asset.config)
    transforms = queue.config["sources"][0]["subject_transforms"]
    sources = [{"name": names.later_stream, "subject_transforms": transforms}]
    old = dataclasses.replace(queue, config={**queue.config, "sources": sources})
    await ensure(connection, [old if asset is queue else asset for asset in wanted])
    await _arrives(connection, names, 1)
    assert await ensure(connection, wanted) == [f"updated stream {names.tasks_stream}: sources"]
    await _arrives(connection, names, 2)


async def _arrives(connection: Connection, names: Namespace, count: int) -> None:
    await connection.request(names.due_subject(Priority.NORMAL, Size.SMALL), b"{}")
    await wait_until(partial(_holds, connection, names.tasks_stream, count), description=f"{count} arrived")


async def _holds(connection: Connection, stream: str, count: int) -> bool:
    return bool((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"] == count)
