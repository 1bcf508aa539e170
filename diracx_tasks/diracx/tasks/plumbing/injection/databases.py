"""Databases on diracx-db's `BaseSQLDB` and `BaseOSDB`: one engine or client each, named by an environment variable.

Engines and clients belong to an event loop. So each loop on which tasks execute has an instance of its own.

DiracX decides which class implements a name: its entry points, in the order of extensions. A task that asks for any
class of a name gets its loop's one instance of the preferred class of that name.
"""

from __future__ import annotations

import os
import re
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Final

from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.injection.diracx_classes import DiracxClass
from diracx.tasks.plumbing.injection.resource import Resource, one_line

INIT_SQL: Final = "python -m diracx.db init-sql"
"""Makes the tables of all databases whose variables are set."""
MAX_CAUSES: Final = 10
"""Errors that are looked at in a chain of causes, which may be a circle."""

_EXTENSIONS: Final = "diracx.core.extensions"
_SETTINGS: Final = "diracx.core.settings"


class Database(Resource[Any]):
    """One database, by the name of its entry point.

    Args:
        base: diracx-db's base class.
        name: The name of the entry point. Without an entry point, the name of the class.
        listed: Whether there is an entry point.
    """

    family: ClassVar[DiracxClass]
    group: ClassVar[str]
    """The group of the entry points."""
    variable_prefix: ClassVar[str]

    def __init__(self, base: Any, name: str, *, listed: bool = True) -> None:
        super().__init__(name)
        self.base = base
        self._listed = listed

    @property
    def variable(self) -> str:
        """The environment variable that locates the database."""
        return f"{self.variable_prefix}{self.name.upper()}"

    @abstractmethod
    def example(self) -> str:
        """Return an example value of the variable."""

    def problems(self) -> list[str]:
        """Report a missing entry point, or a variable that is not set or that diracx cannot read."""
        if not self._listed:
            hint = (
                f"no extension of DiracX lists it; in its pyproject.toml, add {self.name} to "
                f'[project.entry-points."{self.group}"] and `extension = "<its package>"` to '
                '[project.entry-points."diracx"], and install it again'
            )
            return [hint]
        hint = f"set {self.variable}, e.g. {self.example()}"
        try:
            return [] if self.name in self.base.available_urls() else [hint]
        except Exception as error:  # diracx reads all of them, and fails at the first that it cannot read
            if self.variable not in map(str.upper, os.environ):
                return [hint]
            return [f"{self.variable}, or another {self.variable_prefix}..., cannot be used ({one_line(error)})"]

    def preferred(self) -> Any:
        """Return the class that implements the name: that of the extension that comes first."""
        return self.base.available_implementations(self.name)[0]


class SQLDatabase(Database):
    """One SQL database and its engine. A connection is made when a transaction begins, not before.

    All executions on one loop share an instance. It keeps its connection in a ContextVar, and each execution has its
    own context.
    """

    family = DiracxClass.SQL
    group = "diracx.dbs.sql"
    variable_prefix = "DIRACX_DB_URL_"

    def example(self) -> str:
        """Return the URL of an SQLite file."""
        return f"sqlite+aiosqlite:////path/{self.name.lower()}.db"

    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the database in a transaction, and without one."""
        return {"transaction": self._transaction, "no_transaction": self._no_transaction}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the engine for the block, and dispose of it at the end."""
        database = self.preferred()(self.base.available_urls()[self.name])
        async with database.engine_context(), self.serving(database):
            yield

    async def _transaction(self) -> AsyncIterator[Any]:
        database = self.value
        connection = None
        try:
            async with database:
                connection = database.conn
                yield database
        except BaseException as error:
            self._note_missing_table(error)
            # After a failed commit the connection is still checked out of the pool.
            if connection is not None:
                await connection.close()
            raise

    async def _no_transaction(self) -> AsyncIterator[Any]:
        try:
            yield self.value
        except BaseException as error:
            self._note_missing_table(error)
            raise

    def _note_missing_table(self, error: BaseException) -> None:
        """Add a note to an error that says that a table of this database was never made."""
        if (said := missing_table(error)) is None:
            return
        words = set(map(str.casefold, re.findall(r"\w+", said)))
        # A task may use several databases, and the error goes through all of them.
        if any(table.name.casefold() in words for table in self.value.metadata.tables.values()):
            error.add_note(
                f"{self.name} has no tables ({said}): run `{INIT_SQL}`, with {self.variable} set as it is here"
            )


def missing_table(error: BaseException) -> str | None:
    """Return what a database says of a table that does not exist, in one line; None for any other error.

    It is an error of SQLAlchemy, or raised from one, around that of a driver. SQLite has no code for it. MySQL has 1146
    (ER_NO_SUCH_TABLE), PostgreSQL the SQLSTATE 42P01 (undefined_table).
    """
    database_error = getattr(sys.modules.get("sqlalchemy.exc"), "DBAPIError", ())
    seen, of_driver = error, False
    for _ in range(MAX_CAUSES):
        if of_driver:
            text = " ".join(str(seen).split())
            states = {getattr(seen, name, None) for name in ("sqlstate", "pgcode")}
            if text.startswith("no such table") or seen.args[:1] == (1146,) or "42P01" in states:
                return text
        of_driver = of_driver or isinstance(seen, database_error)
        cause = getattr(seen, "orig", None) or seen.__cause__
        if not isinstance(cause, BaseException):
            break
        seen = cause
    return None


def note_of_missing_table(error: BaseException) -> str | None:
    """Return the line that says how to make the tables that were missing; None: none was."""
    return next((note for note in getattr(error, "__notes__", ()) if INIT_SQL in note), None)


class OpenSearchDatabase(Database):
    """One OpenSearch database and its client. An unreachable server fails the task that sends a request, not `opened`.

    The environment variable holds the client's arguments as JSON.
    """

    family = DiracxClass.OPENSEARCH
    group = "diracx.dbs.os"
    variable_prefix = "DIRACX_OS_DB_"

    def example(self) -> str:
        """Return arguments of opensearch-py's client."""
        return '\'{"hosts": "https://user:password@opensearch.example.org:9200"}\''

    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the database in a session."""
        return {"session": self._session}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the client for the block, and close it at the end."""
        prefix = import_module(_SETTINGS).FactorySettings().os_global_prefix
        database = self.preferred()(self.base.available_urls()[self.name], global_prefix=prefix)
        async with database.client_context(), self.serving(database):
            yield

    async def _session(self) -> AsyncIterator[Any]:
        async with self.value as database:
            yield database


def name_of_database(database: type[Database], base: Any, requested: type) -> str | None:
    """Return the name whose implementations include a class; None: no entry point names the class.

    Raises:
        TaskDefinitionError: DiracX finds no database at all, since an entry point is malformed, or since several
            extensions are installed.
    """
    # The name of the class first: loading a name imports all of its implementations.
    for name in sorted(_names(database.group), key=lambda name: name != requested.__name__):
        with suppress(Exception):  # another extension's entry point is broken; the tasks that need it report that
            if requested in base.available_implementations(name):
                return name
    return None


def _names(group: str) -> Iterable[str]:
    try:
        return {point.name for point in import_module(_EXTENSIONS).select_from_extension(group=group)}
    except Exception as error:
        causes = [
            f"the entry point `{point.name} = {point.value}` in {point.group} is malformed"
            for point in (*entry_points(group="diracx", name="extension"), *entry_points(group=group))
            if EntryPoint.pattern.match(point.value) is None
        ]
        raise TaskDefinitionError(f"DiracX finds no database: {'; '.join(causes) or one_line(error)}") from error
