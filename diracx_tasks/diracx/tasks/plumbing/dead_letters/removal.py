"""Removing all that is left of one dead task.

The order: the message itself, where the task stream still holds it; the advisories of its end; last the dead letter,
or the advisory that stands for it. So as long as anything is left, it is still listed, and removing it again removes
the rest. Removed the other way round, a dead letter would leave advisories behind that look like another death, and a
message that its worker had not terminated yet would be buried a second time.
"""

from __future__ import annotations

from diracx.tasks.plumbing.dead_letters.reader import Remains
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message, read_message
from diracx.tasks.plumbing.wire.names import Namespace


async def remove(connection: Connection, namespace: Namespace, remains: Remains) -> None:
    """Remove a dead task for good; what is gone already is no error.

    Raises:
        ServerUnavailableError: No answer; some of it may be removed.
        ApiError: The server refused.
    """
    if remains.sequence:
        message = await read_message(connection, namespace.tasks_stream, seq=remains.sequence)
        if message is not None and remains.are_of(message):
            await delete_message(connection, namespace.tasks_stream, message.sequence)
    for advisory in remains.advisories:
        if advisory.seq != remains.seq:
            await delete_message(connection, namespace.dead_letters_stream, advisory.seq)
    await delete_message(connection, namespace.dead_letters_stream, remains.seq)
