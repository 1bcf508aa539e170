"""One line in the log for each thing that happens to a connection, and none twice during an outage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from nats.errors import UnexpectedEOF

from diracx.tasks.plumbing.clock import Clock

logger = logging.getLogger("diracx.tasks.jetstream")

REPEAT_INTERVAL = timedelta(seconds=30)
"""How often an error that stays the same is told again."""


class ConnectionLog:
    """Writes to the logger `diracx.tasks.jetstream`.

    Args:
        redact: Takes the secrets out of a text.
        clock: Seconds that never step back.
    """

    def __init__(self, redact: Callable[[str], str], clock: Clock) -> None:
        self._redact = redact
        self._clock = clock
        self._told: dict[str, float] = {}

    def info(self, text: str) -> None:
        logger.info("%s", self._redact(text))

    def warning(self, text: str) -> None:
        logger.warning("%s", self._redact(text))

    def error(self, error: Exception) -> None:
        """Tell an error, unless the same was told within `REPEAT_INTERVAL`; an end is told as a disconnect."""
        if isinstance(error, UnexpectedEOF):
            return
        text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        now = self._clock()
        told = self._told.get(text)
        if told is not None and now - told < REPEAT_INTERVAL.total_seconds():
            return
        self._told[text] = now
        logger.error("%s", self._redact(text))

    def recovered(self) -> None:
        """The outage is over: the next one tells its errors from the start."""
        self._told.clear()
