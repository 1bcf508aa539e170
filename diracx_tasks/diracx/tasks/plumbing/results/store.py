"""The results of tasks, in the bucket `results`."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.ending import Ending
from diracx.tasks.plumbing.wire.names import Namespace


class ResultStore:
    """Keeps results."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection, self._namespace = connection, namespace

    async def keep(self, ending: Ending, seconds: float) -> None:
        """Store the result of a task, for so many seconds.

        Raises:
            ServerError: It was not stored.
        """
        raise NotImplementedError
