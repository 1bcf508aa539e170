"""A database for a test, found by tasks as they find it in production."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar


class _SQLDatabase(Protocol):
    """What is asked of diracx-db's `BaseSQLDB`."""

    @property
    def metadata(self) -> Any: ...
    @property
    def engine(self) -> Any: ...
    def engine_context(self) -> Any: ...
    async def post_create(self, conn: Any) -> None: ...


D = TypeVar("D", bound=_SQLDatabase)


@asynccontextmanager
async def sqlite_database(
    database_class: Callable[[str], D], folder: Path, name: str | None = None
) -> AsyncIterator[D]:
    """An empty SQLite database of a class on diracx-db's `BaseSQLDB`, with its tables made.

    Within the block `DIRACX_DB_URL_<NAME>` names it, so `run_task` and the workers of a mesh find it. What is given
    is for the test to look inside: `async with database:` is a transaction.

    Args:
        database_class: The class.
        folder: Where the file is made, e.g. pytest's `tmp_path`.
        name: Of the entry point in `diracx.dbs.sql`; None: the name of the class.
    """
    known = name or str(getattr(database_class, "__name__", database_class))
    url = f"sqlite+aiosqlite:///{folder / known.lower()}.db"
    database = database_class(url)
    with _environment(f"DIRACX_DB_URL_{known.upper()}", url):
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
