"""The configuration of a mesh in its bucket, and a follower that keeps a process up to date.

* The bucket keeps the text as it was written, comments included. A text is checked before it is stored.
* A follower polls the revision once a second, and does not rely on a watch: a watch may die without notice, whereas a
  poll that fails is repeated.
* The last valid configuration stays in force if a poll fails, or if a text got into the bucket without the check and is
  invalid. Either is logged once.
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
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.overrides.overrides import parse
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.configuration")

KEY: Final = "configuration"
POLL_INTERVAL: Final = timedelta(seconds=1)


class ConfigurationBucket:
    """Reads and writes the configuration of one mesh."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._bucket = Bucket(connection, namespace.config_bucket)

    async def read(self) -> tuple[str, int]:
        """The text as it was written, and its revision; `("", 0)` if none was set.

        Raises:
            ServerError: The text cannot be read.
        """
        entry = await self._bucket.read(KEY)
        return ("", 0) if entry is None else (entry.value.decode("utf-8", "replace"), entry.revision)

    async def write(self, text: str) -> int:
        """Check and store a new text, and return its revision.

        Raises:
            ConfigurationError: The text is invalid; nothing was stored.
            ServerError: The text was not stored.
        """
        parse(text)
        while True:
            entry = await self._bucket.read(KEY)
            try:
                if entry is None:
                    return await self._bucket.create(KEY, text.encode())
                return await self._bucket.replace(KEY, text.encode(), None, entry.revision)
            except RevisionConflictError:
                continue  # somebody else has just written; the later text counts


class ConfigurationFollower:
    """Follows the configuration while `run` runs."""

    def __init__(
        self, connection: Connection, namespace: Namespace, *, poll_interval: timedelta = POLL_INTERVAL
    ) -> None:
        self.current = Configuration()
        """The configuration in force: the latest valid one."""
        self.revision = 0
        """The revision of the latest text that was read, valid or not; 0 if none was set."""
        self._bucket = ConfigurationBucket(connection, namespace)
        self._poll_seconds = poll_interval.total_seconds()
        self._callbacks: list[Callable[[], None]] = []

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after `current` has changed."""
        self._callbacks.append(callback)

    async def refresh(self) -> None:
        """Read the configuration once.

        Raises:
            ServerError: The text cannot be read; `current` stays in force.
        """
        text, revision = await self._bucket.read()
        if revision == self.revision:
            return
        self.revision = revision
        try:
            self.current = parse(text) if revision else Configuration()
        except Exception as error:  # a text must never end all processes of the mesh, nor keep them from starting
            unexpected = None if isinstance(error, ConfigurationError) else error
            logger.error("revision %d of the configuration is not in force: %s", revision, error, exc_info=unexpected)
            return
        logger.info("revision %d of the configuration is in force", revision)
        for callback in self._callbacks:
            callback()

    async def run(self) -> None:
        """Follow until cancelled."""
        failing = False
        while True:
            try:
                await self.refresh()
                failing = False
            except ServerError as error:
                if not failing:
                    logger.warning("the configuration cannot be read, the last one stays in force: %s", error)
                failing = True
            await asyncio.sleep(self._poll_seconds)
