"""Moving a task to another queue of its stream, and forgetting what the server held for one that is settled."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.headers import without_server_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_ID


async def move(connection: Connection, delivery: Delivery, subject: str) -> None:
    """Store the message of a delivery in another queue; the delivery is to be acked then.

    Killed in between, it is moved again: the copy has an id of its own, which the stream knows for its duplicate
    window. The task keeps its id.

    Raises:
        ServerError: It was not stored.
    """
    headers = without_server_headers(delivery.headers)
    headers[MSG_ID] = f"{headers.get(TASK_ID, delivery.sequence)}@{subject}"
    await publish(connection, subject, delivery.body, headers)


async def forget_origin(connection: Connection, delivery: Delivery) -> None:
    """Remove what the stream of later tasks still holds of a task that fell due and is settled.

    Only so may a task stream that was removed be made anew: it sources again what was not settled, and nothing else.

    Raises:
        ServerError: It could not be removed; it expires by itself.
    """
    if (origin := delivery.origin) is None:
        return
    await delete_message(connection, *origin)
