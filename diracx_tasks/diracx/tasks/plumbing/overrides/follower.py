"""The configuration in its bucket, and how a process follows it.

The text is kept as it was written, comments included. Followers poll the revision once a second: a watch may die
unnoticed, a poll that fails is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.overrides.overrides import Configuration, ConfigurationError, parse
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.configuration")

KEY: Final = "configuration"
_EVERY: Final = timedelta(seconds=1)


class ConfigurationBucket:
    """The one configuration of a mesh."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._bucket = Bucket(connection, namespace.config_bucket)

    async def read(self) -> tuple[str, int]:
        """The text as it was written, and its revision; `("", 0)` when none was set.

        Raises:
            ServerError: It cannot be read.
        """
        entry = await self._bucket.read(KEY)
        return ("", 0) if entry is None else (entry.value.decode("utf-8", "replace"), entry.revision)

    async def write(self, text: str) -> int:
        """Check and store a new text; return its revision.

        Raises:
            ConfigurationError: The text is refused, and nothing was stored.
            ServerError: It was not stored.
        """
        parse(text)
        while True:
            entry = await self._bucket.read(KEY)
            try:
                if entry is None:
                    return await self._bucket.create(KEY, text.encode())
                return await self._bucket.replace(KEY, text.encode(), None, entry.revision)
            except RevisionConflictError:
                continue  # written by somebody else just now; the later one counts


class ConfigurationFollower:
    """Follows the configuration while `run` runs.

    `current` is what is in force: the latest one that can be read. One that cannot is reported, once.
    """

    def __init__(self, connection: Connection, namespace: Namespace, *, every: timedelta = _EVERY) -> None:
        self.current = Configuration()
        self.revision = 0
        """Of the latest text that was seen, good or bad; 0: none was set."""
        self._bucket = ConfigurationBucket(connection, namespace)
        self._every = every.total_seconds()
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after `current` has changed."""
        self._callbacks.append(callback)

    async def look(self) -> None:
        """Look once.

        Raises:
            ServerError: It cannot be read; what was in force stays.
        """
        text, revision = await self._bucket.read()
        if revision == self.revision:
            return
        self.revision = revision
        try:
            self.current = parse(text)
        except ConfigurationError as error:
            logger.error("revision %d of the configuration is not in force: %s", revision, error)
            return
        logger.info("revision %d of the configuration is in force", revision)
        for callback in self._callbacks:
            callback()

    async def run(self) -> None:
        """Follow until cancelled."""
        failing = False
        while True:
            try:
                await self.look()
                failing = False
            except ServerError as error:
                if not failing:
                    logger.warning("the configuration cannot be read, the last one stays in force: %s", error)
                failing = True
            await asyncio.sleep(self._every)
