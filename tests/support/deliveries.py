"""Deliveries that no server made, for code that takes a delivery and tests that take no message."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.store import JetStreamGroupStore
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.results.store import ResultStore
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.settlement.endings import Endings
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement
from support.mesh import TaskMesh


class FakeMessage(Received):
    """A message with these headers that no server sent."""

    def __init__(
        self,
        reply: bytes,
        subject: str = "diracx.tasks.normal.small",
        headers: dict[str, str] | None = None,
        data: bytes = b"",
    ) -> None:
        super().__init__(subject.encode(), reply, b"", data)
        self._headers, self._parsed = headers, True


def ack_subject(sequence: int, *, delivered: int = 1, stored_ns: int = 1000) -> str:
    """The reply subject of a delivered message (ADR-15).

    Args:
        sequence: Of the message in its stream.
        delivered: How many times it was delivered, this time included.
        stored_ns: When the stream stored it, in nanoseconds since the epoch.
    """
    return f"$JS.ACK.S.C.{delivered}.{sequence}.{delivered}.{stored_ns}.0"


def fake_delivery(
    connection: Any,
    sequence: int = 7,
    *,
    delivered: int = 1,
    stored_ns: int = 1000,
    requested: float = 0.0,
    **message: Any,
) -> Delivery:
    """A delivery that is answered on `connection`.

    Args:
        connection: A connection, or its stand-in.
        requested: When the message was asked for, by the clock of leases, in seconds.
        message: Other fields of the message: `subject`, `headers`, `data`.
    """
    reply = ack_subject(sequence, delivered=delivered, stored_ns=stored_ns)
    return Delivery(connection, FakeMessage(reply.encode(), **message), requested)


async def first_delivery(mesh: TaskMesh, sequence: int) -> Delivery:
    """The first delivery of a stored message as a worker would see it; the message stays where it is."""
    answer = await mesh.connection.api(f"STREAM.MSG.GET.{mesh.namespace.tasks_stream}", {"seq": sequence})
    return fake_delivery(mesh.connection, sequence, stored_ns=_nanoseconds(answer["message"]["time"]), subject="")


def _nanoseconds(time: str) -> int:
    """An RFC 3339 time of the server in nanoseconds since the epoch: the record of attempts compares all of them."""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(seconds).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0"))


async def leave_crashes(mesh: TaskMesh, sequence: int, times: int) -> None:
    """Record that so many executions of a message began and never ended, as killed workers leave it."""
    store = AttemptStore(mesh.attempts)
    for _ in range(times):
        await store.begin(await store.read(await first_delivery(mesh, sequence)))


def settlement_of(mesh: TaskMesh, store: AttemptStore, connection: Connection | None = None) -> Settlement:
    """A settlement as a worker has it.

    Args:
        connection: For ack, nak and term; None: that of the mesh.
    """
    results = ResultStore(mesh.connection, mesh.namespace, "here")
    groups = GroupCompletions(JetStreamGroupStore(mesh.connection, mesh.namespace), mesh.connection.clock)
    endings = Endings(mesh.registry, results, groups, "here", mesh.connection.clock)
    return Settlement(connection or mesh.connection, store, DeadLetterStore(mesh.connection, mesh.namespace), endings)
