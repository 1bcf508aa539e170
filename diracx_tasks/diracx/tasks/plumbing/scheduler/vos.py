"""The virtual organisations (VOs) of a mesh.

The first of these sources that names VOs counts: the option `--vo`; `vos:` in the configuration of the mesh; the DiracX
configuration (extra `diracx`, environment variable `DIRACX_CONFIG_BACKEND_URL`).

Reading the DiracX configuration runs git, which may hang for good. So

* a read runs on a thread of its own, and nobody waits for it: neither the scheduler, nor its stop, nor the end of the
  interpreter, which would wait for the threads of an executor;
* no second read starts before the first has ended;
* after `READ_LIMIT` an error is logged, and after `RESTART_LIMIT` the process asks for a restart (`why_stuck`). A read
  that ends after all counts;
* until the first read has ended, the VOs are unknown, and none is treated as removed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any, Final, Protocol

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.overrides.configuration import Configuration

logger = logging.getLogger("diracx.tasks.scheduler")

BACKEND_URL: Final = "DIRACX_CONFIG_BACKEND_URL"
REFRESH_INTERVAL: Final = timedelta(seconds=5)
READ_LIMIT: Final = timedelta(seconds=30)
RESTART_LIMIT: Final = timedelta(seconds=90)
_POLL_SECONDS: Final = 0.02
_DIRACX_CONFIG_MODULE: Final = "diracx.core.config"


class Source(Protocol):
    """The part of diracx-core's `ConfigSource` that is used here.

    Its `read` is not: from its second call on, it answers from a cache and leaves git to an executor. There a git that
    hangs would go unnoticed for an hour, and would hold up the end of the interpreter.
    """

    def latest_revision(self) -> tuple[str, datetime]:
        """The latest revision and its time. Runs git."""

    def read_raw(self, hexsha: str, modified: datetime) -> Any:
        """The DiracX configuration at a revision; the keys of its `registry` are the VOs. Runs git."""


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


class _Read(threading.Thread):
    """One read of the VOs. It dies with the process.

    Args:
        read: Reads the VOs.
        begun_at: The time of the start, by the clock of the caller.
    """

    def __init__(self, read: Callable[[], tuple[str, ...]], begun_at: float) -> None:
        super().__init__(name="VOs", daemon=True)
        self.begun_at = begun_at
        self.overdue = False
        """Whether it was logged that the read takes too long."""
        self.vos: tuple[str, ...] | None = None
        """The VOs; None if the read failed or still runs."""
        self.problem: str | None = None
        """Why the read failed; None if it succeeded or still runs."""
        self._read = read

    def run(self) -> None:
        try:
            self.vos = self._read()
        except BaseException as error:  # the source may raise anything
            self.problem = f"{type(error).__name__}: {error}"


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
        self._url = environ.get(BACKEND_URL, "")
        self._clock = clock
        self._open = opener
        self._source: Source | None = None
        self._revision: str | None = None
        """The revision that was read last. Like `_source`, it belongs to the thread that reads."""
        self._diracx_vos: tuple[str, ...] | None = None
        self._begun_at: float | None = None
        self._reading: _Read | None = None
        self._last_error: str | None = None

    def current(self, configuration: Configuration) -> tuple[str, ...] | None:
        """The VOs; None if they are not known yet. Then no VO must be treated as removed."""
        if self._options:
            return self._options
        if configuration.vos is not None:
            return configuration.vos
        return self._diracx_vos if self._url else ()

    def why_stuck(self, configuration: Configuration) -> str | None:
        """Why only a restart can bring the VOs up to date; None if they are, or may still come."""
        seconds = self._read_seconds()
        if not self._counts(configuration) or seconds < RESTART_LIMIT.total_seconds():
            return None
        return f"git has not answered for {seconds:.0f} s ({BACKEND_URL}): only a restart can read the VOs again"

    def refresh(self, configuration: Configuration) -> None:
        """Take over what was read, and start to read again if the last read began more than 5 s ago. Never blocks.

        This is for the DiracX configuration, if it counts. An error is logged once, and the last known VOs stay in
        force.
        """
        if not self._counts(configuration):
            return
        if (reading := self._reading) is not None:
            if reading.is_alive():
                self._log_overdue(reading)
                return
            self._take_over(reading)
        now = self._clock()
        if self._begun_at is None or now >= self._begun_at + REFRESH_INTERVAL.total_seconds():
            self._begun_at = now
            self._reading = _Read(partial(self._read, self._url), now)
            self._reading.start()

    async def read(self, configuration: Configuration) -> None:
        """Refresh, and wait for the read if there is one: for 30 s at most, which are then logged."""
        self.refresh(configuration)
        reading = self._reading
        while reading is not None and reading is self._reading and not reading.overdue:
            await asyncio.sleep(_POLL_SECONDS)
            self.refresh(configuration)

    def _counts(self, configuration: Configuration) -> bool:
        return not self._options and configuration.vos is None and bool(self._url)

    def _read_seconds(self) -> float:
        """How long the read that runs now has taken so far; 0 if none runs."""
        reading = self._reading
        return self._clock() - reading.begun_at if reading is not None and reading.is_alive() else 0.0

    def _log_overdue(self, reading: _Read) -> None:
        if not reading.overdue and self._read_seconds() >= READ_LIMIT.total_seconds():
            reading.overdue = True
            logger.error(
                "git has not answered for %d s (%s); the known VOs stay in force",
                *(READ_LIMIT.total_seconds(), BACKEND_URL),
            )

    def _take_over(self, reading: _Read) -> None:
        self._reading = None
        if reading.problem is None:
            self._diracx_vos = reading.vos
        elif reading.problem != self._last_error:
            logger.error(
                "the VOs cannot be read from %s; the known ones stay in force: %s", BACKEND_URL, reading.problem
            )
        self._last_error = reading.problem

    def _read(self, url: str) -> tuple[str, ...]:
        if self._source is None:
            self._source = self._open(url)
        revision, modified = self._source.latest_revision()
        if self._diracx_vos is None or revision != self._revision:
            vos = tuple(self._source.read_raw(revision, modified).registry)
            self._revision = revision
            return vos
        return self._diracx_vos
