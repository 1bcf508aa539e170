"""The DiracX configuration, from the source that `DIRACX_CONFIG_BACKEND_URL` names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.diracx_classes import Kind
from diracx.tasks.plumbing.injection.resource import Resource, phrase

VARIABLE: Final = "DIRACX_CONFIG_BACKEND_URL"

_SETTINGS: Final = "diracx.core.settings"


class Configuration(Resource[Any]):
    """The source of the configuration: each execution reads the current one, mostly from the source's cache."""

    def __init__(self) -> None:
        super().__init__("Config")
        self._source: Any = None

    def problems(self) -> list[str]:
        """Whether the variable names a source."""
        mend = f"set {VARIABLE}, e.g. git+file:///path/of/a/repository"
        try:
            if not import_module(_SETTINGS).FactorySettings().config_backend_url:
                return [mend]
            self._made()
        except Exception as error:  # of pydantic, of the source's scheme, of its path
            return [f"{VARIABLE} cannot be used ({phrase(error)}); {mend}"]
        return []

    def served(self) -> dict[str, Callable[..., Any]]:
        """The current configuration. A sync callable, which runs in a thread: it may have to be fetched."""
        return {"create": lambda: self.value.read()}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read it once, so that one that cannot be read is told before the first task.

        Raises:
            ResourceError: It cannot be read.
        """
        source = self._made()
        try:
            await asyncio.to_thread(source.read)
        except Exception as error:
            raise ResourceError([f"{self.name} cannot be read from {VARIABLE}: {phrase(error)}"]) from error
        async with self.holding(source):
            try:
                yield
            finally:
                source.clear_caches()

    def _made(self) -> Any:
        # Once: that of a remote repository may have to clone it.
        if self._source is None:
            source: Any = Kind.CONFIGURATION_SOURCE.base
            self._source = source.create()
        return self._source
