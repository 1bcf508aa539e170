"""The DiracX configuration, from the source in the environment variable `DIRACX_CONFIG_BACKEND_URL`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ResourceError
from diracx.tasks.plumbing.injection.diracx_classes import DiracxClass
from diracx.tasks.plumbing.injection.resource import Resource, one_line

VARIABLE: Final = "DIRACX_CONFIG_BACKEND_URL"

_SETTINGS: Final = "diracx.core.settings"
_HINT: Final = f"set {VARIABLE}, e.g. git+file:///path/of/a/repository"


class DiracxConfig(Resource[Any]):
    """The source of the configuration. Each execution reads the current one, mostly from the source's cache.

    The source is bound to no event loop and may be read from any thread. So one serves all loops, from the first that
    opens it to the last that closes it.
    """

    def __init__(self) -> None:
        super().__init__("Config")
        self._source: Any = None
        self._openers = 0
        self._lock = threading.Lock()
        """Guards the two above."""
        self._creating = threading.Lock()
        """Held while the source is made, which may take long: a remote source clones its repository."""

    @property
    def value(self) -> Any:
        """The source. Any thread may ask for it: it need not run an event loop."""
        if (source := self._source) is None or not self._openers:
            raise self._not_open()
        return source

    def problems(self) -> list[str]:
        """Report a variable that is not set or names no source."""
        if unset := self.unset():
            return unset
        try:
            self._create()
        except Exception as error:  # of the source's scheme, of its path
            return [f"{VARIABLE} cannot be used ({one_line(error)}); {_HINT}"]
        return []

    def unset(self) -> list[str]:
        """Report a variable that is not set, or that diracx cannot read."""
        try:
            return [] if import_module(_SETTINGS).FactorySettings().config_backend_url else [_HINT]
        except Exception as error:  # of pydantic
            return [f"{VARIABLE} cannot be used ({one_line(error)}); {_HINT}"]

    def replacements(self) -> dict[str, Callable[..., Any]]:
        """Return the current configuration. The callable is sync, so it runs in a thread: it may have to fetch."""
        return {"create": lambda: self.value.read()}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Read the configuration once, so that an unreadable one is reported before the first task.

        Raises:
            ResourceError: The configuration cannot be read.
        """
        with self._kept():
            try:
                # In a thread: a remote source clones its repository, and meanwhile this loop may send heartbeats.
                source = await asyncio.to_thread(self._create)
                await asyncio.to_thread(source.read)
            except Exception as error:
                raise ResourceError([f"{self.name} cannot be read from {VARIABLE}: {one_line(error)}"]) from error
            async with self.serving(source):
                yield

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep the source for the block. The last to leave drops it, and its cache, thread and clone go with it.

        It is dropped rather than cleared: clearing waits for a fetch, which may hang, and a loop that opens the source
        at that moment would read from a half-cleared one.
        """
        with self._lock:
            self._openers += 1
        try:
            yield
        finally:
            with self._lock:
                self._openers -= 1
                if not self._openers:
                    self._source = None

    def _create(self) -> Any:
        # Once for all openers: a remote source may have to clone its repository.
        with self._creating:
            if (source := self._source) is None:
                base: Any = DiracxClass.CONFIGURATION_SOURCE.base
                source = self._source = base.create()
            return source
