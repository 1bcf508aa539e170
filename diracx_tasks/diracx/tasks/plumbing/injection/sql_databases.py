"""Databases on diracx-db's `BaseSQLDB`: one engine each, `DIRACX_DB_URL_<NAME>` says where.

All executions share one instance: it keeps its connection in a ContextVar, and each execution has a context of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from diracx.tasks.plumbing.injection.database import Database
from diracx.tasks.plumbing.injection.diracx_classes import Kind


class SQLDatabase(Database):
    """One SQL database and its engine. Connections are made when a transaction begins, not before."""

    kind = Kind.SQL
    group = "diracx.dbs.sql"
    variable_prefix = "DIRACX_DB_URL_"

    def example(self) -> str:
        """A file of SQLite."""
        return f"sqlite+aiosqlite:////path/{self.name.lower()}.db"

    def served(self) -> dict[str, Callable[..., Any]]:
        """The database in a transaction, and as it is."""
        return {"transaction": self._transaction, "no_transaction": self._no_transaction}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the engine; dispose of it at the end."""
        database = self.preferred()(self.base.available_urls()[self.name])
        async with database.engine_context(), self.holding(database):
            yield

    async def _transaction(self) -> AsyncIterator[Any]:
        database = self.value
        connection = None
        try:
            async with database:
                connection = database.conn
                yield database
        except BaseException:
            # After a commit that failed it is still checked out of the pool.
            if connection is not None:
                await connection.close()
            raise

    async def _no_transaction(self) -> Any:
        return self.value
