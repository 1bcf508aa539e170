"""What killed workers leave behind, for tests that kill none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from support.mesh import Mesh


@dataclass
class _Message:
    reply: str
    subject: str = ""
    headers: None = None
    data: bytes = b""


async def leave_crashes(mesh: Mesh, sequence: int, times: int) -> None:
    """Record that executions of a message began, so many times, and never ended."""
    store = AttemptStore(mesh.attempts)
    for _ in range(times):
        await store.begin(await store.read(await _delivery(mesh, sequence)))


async def _delivery(mesh: Mesh, sequence: int) -> Delivery:
    """The first delivery of a stored message as a worker would see it, without taking it."""
    answer = await mesh.connection.api(f"STREAM.MSG.GET.{mesh.namespace.tasks_stream}", {"seq": sequence})
    seconds, _, fraction = answer["message"]["time"].rstrip("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    stored_ns = whole * 1_000_000_000 + int(fraction.ljust(9, "0"))
    return Delivery(mesh.connection, _Message(f"$JS.ACK.S.C.1.{sequence}.1.{stored_ns}.0"), 0.0)
