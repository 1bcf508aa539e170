"""A database for a test, which tasks find by its variable, as in production."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeVar


class _SQLDatabase(Protocol):
    """The part of diracx-db's `BaseSQLDB` that this module needs."""

    @property
    def metadata(self) -> Any: ...
    @property
    def engine(self) -> Any: ...
    def engine_context(self) -> Any: ...
    async def post_create(self, conn: Any) -> None: ...


D = TypeVar("D", bound=_SQLDatabase)


@asynccontextmanager
async def sqlite_database(
    database_class: Callable[[str], D], folder: str | PathLike[str], name: str | None = None
) -> AsyncIterator[D]:
    """Create an empty SQLite database with its tables, and set `DIRACX_DB_URL_<NAME>` to its URL within the block.

    So `run_task` and the workers of a mesh find the database. The yielded object gives the test access to it:
    `async with database:` is a transaction.

    Args:
        database_class: A subclass of diracx-db's `BaseSQLDB`.
        folder: The folder for the file, e.g. pytest's `tmp_path`.
        name: The name of the entry point in `diracx.dbs.sql`; None takes the name of the class.

    Raises:
        TypeError: The class is no database of diracx-db.
    """
    if not hasattr(database_class, "engine_context"):
        raise TypeError(f"{database_class!r} is no SQL database; give a subclass of diracx-db's BaseSQLDB")
    entry_point = name or str(getattr(database_class, "__name__", database_class))
    url = f"sqlite+aiosqlite:///{Path(folder) / entry_point.lower()}.db"
    database = database_class(url)
    with _environment(f"DIRACX_DB_URL_{entry_point.upper()}", url):
        async with database.engine_context():
            async with database.engine.begin() as connection:
                await connection.run_sync(database.metadata.create_all)
                await database.post_create(connection)
            yield database


@contextmanager
def _environment(variable: str, value: str) -> Iterator[None]:
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
