"""Databases on diracx-db's `BaseOSDB`: one client each, `DIRACX_OS_DB_<NAME>` holds its arguments as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

from diracx.tasks.plumbing.injection.database import Database
from diracx.tasks.plumbing.injection.diracx_classes import Kind

_SETTINGS: Final = "diracx.core.settings"


class OpenSearchDatabase(Database):
    """One OpenSearch database and its client. A server that is away is noticed by the task that asks it."""

    kind = Kind.OPENSEARCH
    group = "diracx.dbs.os"
    variable_prefix = "DIRACX_OS_DB_"

    def example(self) -> str:
        """The arguments of opensearch-py's client."""
        return '\'{"hosts": "https://user:password@opensearch.example.org:9200"}\''

    def served(self) -> dict[str, Callable[..., Any]]:
        """The database, entered for one execution."""
        return {"session": self._session}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Make the client; close it at the end."""
        prefix = import_module(_SETTINGS).FactorySettings().os_global_prefix
        database = self.preferred()(self.base.available_urls()[self.name], global_prefix=prefix)
        async with database.client_context(), self.holding(database):
            yield

    async def _session(self) -> AsyncIterator[Any]:
        async with self.value as database:
            yield database
