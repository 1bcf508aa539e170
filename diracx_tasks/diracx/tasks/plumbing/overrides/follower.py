"""The configuration of a mesh in its bucket, and a follower that keeps a process up to date.

* The bucket keeps the text as it was written, comments included. A text is checked before it is stored.
* The bucket keeps the last revisions, with the time and the author of each. The author is what the writing process
  claims; the server does not check it.
* A follower polls the revision once a second, and does not rely on a watch: a watch may die without notice, whereas a
  poll that fails is repeated.
* The last valid configuration stays in force if a poll fails, or if a text got into the bucket without the check and is
  invalid. Either is logged once. The latest valid revision is then taken from the history, by a process that starts and
  by one that has not polled it, so all processes of the mesh have the same one in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import RevisionConflictError
from diracx.tasks.plumbing.overrides.configuration import Configuration, ConfigurationError
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.configuration")

KEY: Final = "configuration"
AUTHOR: Final = "Configuration-Author"
"""The header with the author of a revision."""
POLL_INTERVAL: Final = timedelta(seconds=1)


def _parsed(text: str) -> Configuration:
    # Only now: most processes of most meshes have no configuration, and what reads one, PyYAML above all, takes 2 MB.
    from diracx.tasks.plumbing.overrides.layouts import parse

    return parse(text)


class Revision(msgspec.Struct, frozen=True):
    """One text that the bucket keeps."""

    number: int
    text: str | None
    """None: the text was removed by hand, so no configuration is set."""
    written: datetime
    """By the server's clock."""
    author: str | None
    """As the writing process called itself; None: it did not."""

    def parsed(self) -> Configuration:
        """Read the text.

        Raises:
            ConfigurationError: The text is invalid.
        """
        return Configuration() if self.text is None else _parsed(self.text)


def in_force(revisions: Sequence[Revision]) -> tuple[Revision, Configuration] | None:
    """The latest valid of these revisions, which are sorted, and its configuration; None if none is valid."""
    for revision in reversed(revisions):
        with suppress(Exception):  # a text that was not checked may break the parser in any way
            return revision, revision.parsed()
    return None


class ConfigurationBucket:
    """Reads and writes the configuration of one mesh.

    Args:
        author: Who writes, in one line; empty: it is not told.
    """

    def __init__(self, connection: Connection, namespace: Namespace, *, author: str = "") -> None:
        headers = {AUTHOR: author} if author else {}
        self._bucket = Bucket(connection, namespace.config_bucket, headers=headers)

    async def read(self) -> tuple[str, int]:
        """The latest text as it was written, and its revision; `("", 0)` if none is set.

        Raises:
            ServerError: The text cannot be read.
        """
        entry = await self._bucket.read(KEY)
        return ("", 0) if entry is None else (_text(entry.value), entry.revision)

    async def revisions(self) -> list[Revision]:
        """The revisions that are kept, the oldest first; empty if no text was ever written.

        Raises:
            ServerError: They cannot be read.
        """
        return [
            Revision(
                number=kept.revision,
                text=None if kept.value is None else _text(kept.value),
                written=kept.stored,
                author=kept.headers.get(AUTHOR) or None,
            )
            for kept in await self._bucket.history(KEY)
        ]

    async def write(self, text: str, *, replacing: int | None = None) -> int:
        """Check and store a new text, and return its revision.

        Args:
            replacing: The revision that the text replaces, 0 for none; None: any.

        Raises:
            ConfigurationError: The text is invalid; nothing was stored.
            RevisionConflictError: Another revision than `replacing` is the latest; nothing was stored.
            ServerError: The text was not stored.
        """
        _parsed(text)
        while True:
            latest = (await self.read())[1] if replacing is None else replacing
            try:
                if not latest:
                    return await self._bucket.create(KEY, text.encode())
                return await self._bucket.replace(KEY, text.encode(), None, latest)
            except RevisionConflictError:
                if replacing is not None:
                    raise
                # Somebody else has just written. The later text counts.


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


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
        self._reading = asyncio.Lock()
        """Of two that refresh at once, the second finds nothing new: each revision is logged once."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after `current` has changed."""
        self._callbacks.append(callback)

    async def refresh(self) -> None:
        """Read the configuration once.

        Raises:
            ServerError: The text cannot be read; `current` stays in force.
        """
        async with self._reading:
            text, revision = await self._bucket.read()
            if revision != self.revision:
                await self._take(text, revision)

    async def _take(self, text: str, revision: int) -> None:
        """Put a text in force that was read; if it is invalid, the latest valid one before it that is not yet."""
        found: tuple[int, Configuration] | None = None
        try:
            found = revision, _parsed(text) if revision else Configuration()
        except Exception as error:  # a text must never end all processes of the mesh, nor keep them from starting
            older = in_force(await self._bucket.revisions())
            if older is not None and older[0].number > self.revision:
                found = older[0].number, older[1]
            unexpected = None if isinstance(error, ConfigurationError) else error
            logger.error("revision %d of the configuration is not in force: %s", revision, error, exc_info=unexpected)
        self.revision = revision
        if found is not None:
            self._put_in_force(*found)

    def _put_in_force(self, revision: int, configuration: Configuration) -> None:
        self.current = configuration
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
