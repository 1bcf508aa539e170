"""The queues of tasks, changed as an operator would."""

from __future__ import annotations

from collections.abc import Iterable

from diracx.tasks.plumbing.enums import Priority, Size
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace


async def set_ack_wait(connection: Connection, names: Namespace, seconds: float, sizes: Iterable[Size] = Size) -> None:
    """Set how long a lease lasts without a heartbeat; workers that start later go by it.

    A test that kills workers would otherwise wait 30 s for each redelivery.
    """
    stream = names.tasks_stream
    for size in sizes:
        for priority in Priority:
            consumer = names.consumer(priority, size)
            config = (await connection.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"]
            await connection.api(
                f"CONSUMER.CREATE.{stream}.{consumer}.{config['filter_subject']}",
                {"stream_name": stream, "config": config | {"ack_wait": int(seconds * NANOSECONDS)}},
            )


async def edit_stream(connection: Connection, stream: str, **changes: object) -> None:
    """Change fields of the configuration of a stream."""
    config = (await connection.api(f"STREAM.INFO.{stream}"))["config"]
    await connection.api(f"STREAM.UPDATE.{stream}", {**config, **changes})


async def remove_mesh(connection: Connection, names: Namespace) -> None:
    """Remove the streams and buckets of a namespace that exist: their reserved space would fill a shared server."""
    streams = (await connection.api("STREAM.NAMES")).get("streams") or []
    for stream in streams:
        if stream.removeprefix("KV_").lower().startswith(f"{names.name}_"):
            await connection.api(f"STREAM.DELETE.{stream}")
