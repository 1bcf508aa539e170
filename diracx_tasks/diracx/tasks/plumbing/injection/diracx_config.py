"""The DiracX configuration, from the source in the environment variable `DIRACX_CONFIG_BACKEND_URL`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.diracx_classes import DiracxClass
from diracx.tasks.plumbing.injection.resource import Resource, one_line

VARIABLE: Final = "DIRACX_CONFIG_BACKEND_URL"

_SETTINGS: Final = "diracx.core.settings"


class DiracxConfig(Resource[Any]):
    """The source of the configuration. Each execution reads the current one, mostly from the source's cache."""

    def __init__(self) -> None:
        super().__init__("Config")
        self._source: Any = None

    def problems(self) -> list[str]:
        """Report a variable that is not set or names no source."""
        hint = f"set {VARIABLE}, e.g. git+file:///path/of/a/repository"
        try:
            if not import_module(_SETTINGS).FactorySettings().config_backend_url:
                return [hint]
            self._create()
        except Exception as error:  # of pydantic, of the source's scheme, of its path
            return [f"{VARIABLE} cannot be used ({one_line(error)}); {hint}"]
        return []

    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the current configuration. The callable is sync, so it runs in a thread: it may have to fetch."""
        return {"create": lambda: self.value.read()}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read the configuration once, so that an unreadable one is reported before the first task.

        Raises:
            ResourceError: The configuration cannot be read.
        """
        source = self._create()
        try:
            await asyncio.to_thread(source.read)
        except Exception as error:
            raise ResourceError([f"{self.name} cannot be read from {VARIABLE}: {one_line(error)}"]) from error
        async with self.serving(source):
            try:
                yield
            finally:
                source.clear_caches()

    def _create(self) -> Any:
        # Once only: a remote source may have to clone its repository.
        if self._source is None:
            source: Any = DiracxClass.CONFIGURATION_SOURCE.base
            self._source = source.create()
        return self._source
