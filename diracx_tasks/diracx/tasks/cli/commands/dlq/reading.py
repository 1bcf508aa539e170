"""The stream of dead letters, as the commands find it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.terminal.progress import progress
from diracx.tasks.plumbing.dead_letters.dead_letter import DeadLetter
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, DeadTask
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.names import Namespace


class Letters:
    """All that is dead in one namespace. Made by `open`."""

    def __init__(self, connection: Connection, namespace: Namespace, size: int | None) -> None:
        self.connection = connection
        self.namespace = namespace
        self._size = size
        self._reader = DeadLetterReader(connection, namespace)

    @classmethod
    @asynccontextmanager
    async def open(cls, access: Access) -> AsyncIterator[Letters]:
        """Connect; where there is no stream, say so on standard error: nothing is dead then."""
        namespace = namespace_of(access)
        async with operator_connection(access, "dlq") as connection:
            size = await DeadLetterReader(connection, namespace).size()
            if size is None:
                print(
                    f"warning: there is no stream {namespace.dead_letters_stream} on this server: neither a worker nor "
                    f"`diracx-task-run setup` has run in namespace {namespace.name}",
                    file=sys.stderr,
                )
            yield cls(connection, namespace, size)

    async def all(self) -> list[DeadLetter]:
        """All of them, the oldest first."""
        with progress("reading", self._size or 0) as advance:
            return await self._reader.all(advance)

    async def remains(self) -> list[DeadTask]:
        """Where all that is dead is, the oldest first."""
        with progress("reading", self._size or 0) as advance:
            return await self._reader.dead_tasks(advance)

    async def get(self, seq: int) -> DeadLetter | None:
        """One of them; None where there is none of that sequence."""
        return await self._reader.get(seq)
