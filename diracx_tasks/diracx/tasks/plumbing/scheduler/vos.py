"""Which virtual organisations there are.

The first that says something counts: the option `--vo`, then `vos:` of the configuration, then the DiracX
configuration (extra `diracx`, `DIRACX_CONFIG_BACKEND_URL`).
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
_EVERY: Final = timedelta(seconds=5)
_DIRACX_CONFIGURATION: Final = "diracx.core.config"


class Source(Protocol):
    """What is used of diracx-core's `ConfigSource`."""

    def read(self) -> Any:
        """The configuration; `registry` has the VOs as its keys."""


def open_source(url: str) -> Source:
    """The DiracX configuration behind a URL.

    Raises:
        RuntimeError: diracx-core is not installed.
    """
    try:
        # Here, since it takes a second, and only schedulers that are told of a backend need it.
        module = import_module(_DIRACX_CONFIGURATION)
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{error}; pip install 'diracx-tasks[diracx]'") from None
    source: Source = module.ConfigSource.create_from_url(backend_url=url)
    return source


class VirtualOrganisations:
    """The VOs in force.

    Args:
        options: Of the command line; empty: none were given.
        environ: Where `DIRACX_CONFIG_BACKEND_URL` is looked up.
        opens: Opens the DiracX configuration.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
        *,
        clock: Clock = boottime,
        opens: Callable[[str], Source] = open_source,
    ) -> None:
        self._options = tuple(options)
        self._url = environ.get(BACKEND_URL)
        self._clock = clock
        self._open = opens
        self._source: Source | None = None
        self._of_diracx: tuple[str, ...] | None = None
        self._looked: float | None = None
        self._problem: str | None = None

    def now(self, configuration: Configuration) -> tuple[str, ...] | None:
        """The VOs; None: not known yet, so that none of them is to be taken for gone."""
        if self._options:
            return self._options
        if configuration.vos is not None:
            return configuration.vos
        return self._of_diracx if self._url else ()

    async def look(self, configuration: Configuration) -> None:
        """Read the DiracX configuration if it counts and was not read for 5 s; what cannot be read is reported."""
        if self._options or configuration.vos is not None or not self._url:
            return
        if self._looked is not None and self._clock() < self._looked + _EVERY.total_seconds():
            return
        self._looked = self._clock()
        problem = None
        try:
            # It runs git, and blocks meanwhile.
            self._of_diracx = await asyncio.to_thread(self._read, self._url)
        except Exception as error:  # whatever the source raises: the VOs that were known stay
            problem = f"{type(error).__name__}: {error}"
        if problem is not None and problem != self._problem:
            logger.error("the VOs cannot be read from %s, the last ones stay: %s", BACKEND_URL, problem)
        self._problem = problem

    def _read(self, url: str) -> tuple[str, ...]:
        if self._source is None:
            self._source = self._open(url)
        return tuple(self._source.read().registry)
