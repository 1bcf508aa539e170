"""The completions of the children of groups, merged within one process."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.ending import Ending
from diracx.tasks.plumbing.wire.names import Namespace


class GroupCompletions:
    """Records the completions of one worker process."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection, self._namespace = connection, namespace

    async def record(self, place: str, ending: Ending, *, keeps_value: bool) -> None:
        """Record that a child has ended, and return once that is stored. The first record of a child stays.

        Args:
            place: The header `Task-Group` of the child, `<id of the group>:<index>`.
            keeps_value: Whether the value is kept for the callback.

        Raises:
            ServerError: It was not stored.
        """
        raise NotImplementedError
