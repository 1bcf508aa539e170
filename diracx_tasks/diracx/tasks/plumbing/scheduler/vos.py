"""The virtual organisations (VOs) of a mesh.

The first of these sources that names VOs counts: the option `--vo`; `vos:` in the configuration of the mesh; the DiracX
configuration (extra `diracx`, environment variable `DIRACX_CONFIG_BACKEND_URL`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, Final, Protocol

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.overrides.overrides import Configuration

logger = logging.getLogger("diracx.tasks.scheduler")

BACKEND_URL: Final = "DIRACX_CONFIG_BACKEND_URL"
REFRESH_INTERVAL: Final = timedelta(seconds=5)
_DIRACX_CONFIG_MODULE: Final = "diracx.core.config"


class Source(Protocol):
    """The part of diracx-core's `ConfigSource` that is used here."""

    def read(self) -> Any:
        """The DiracX configuration; the keys of its `registry` are the VOs."""


def open_source(url: str) -> Source:
    """Open the DiracX configuration at a URL.

    Raises:
        RuntimeError: diracx-core is not installed.
    """
    try:
        # Imported on demand: it takes a second, and only schedulers with a backend need it.
        module = import_module(_DIRACX_CONFIG_MODULE)
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{error}; pip install 'diracx-tasks[diracx]'") from None
    source: Source = module.ConfigSource.create_from_url(backend_url=url)
    return source


class VirtualOrganisations:
    """The VOs in force.

    Args:
        options: The VOs given on the command line; empty if none were given.
        environ: The environment that may hold `DIRACX_CONFIG_BACKEND_URL`.
        clock: Seconds, rising.
        opener: Opens the DiracX configuration at a URL.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
        *,
        clock: Clock = boottime,
        opener: Callable[[str], Source] = open_source,
    ) -> None:
        self._options = tuple(options)
        self._url = environ.get(BACKEND_URL)
        self._clock = clock
        self._open = opener
        self._source: Source | None = None
        self._diracx_vos: tuple[str, ...] | None = None
        self._refreshed_at: float | None = None
        self._last_error: str | None = None

    def current(self, configuration: Configuration) -> tuple[str, ...] | None:
        """The VOs; None if they are not known yet. Then no VO must be treated as removed."""
        if self._options:
            return self._options
        if configuration.vos is not None:
            return configuration.vos
        return self._diracx_vos if self._url else ()

    async def refresh(self, configuration: Configuration) -> None:
        """Read the DiracX configuration if it counts and was last read more than 5 s ago.

        An error is logged once, and the last known VOs stay in force.
        """
        if self._options or configuration.vos is not None or not self._url:
            return
        if self._refreshed_at is not None and self._clock() < self._refreshed_at + REFRESH_INTERVAL.total_seconds():
            return
        self._refreshed_at = self._clock()
        problem = None
        try:
            # The source runs git and blocks.
            self._diracx_vos = await asyncio.to_thread(self._read, self._url)
        except Exception as error:  # the source may raise anything
            problem = f"{type(error).__name__}: {error}"
        if problem is not None and problem != self._last_error:
            logger.error("the VOs cannot be read from %s; the known ones stay in force: %s", BACKEND_URL, problem)
        self._last_error = problem

    def _read(self, url: str) -> tuple[str, ...]:
        if self._source is None:
            self._source = self._open(url)
        return tuple(self._source.read().registry)
