"""The log of one connection: one line for each event, and no error twice within a minute of one outage."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta

from nats.errors import UnexpectedEOF

from diracx.tasks.plumbing.clock import Clock

logger = logging.getLogger("diracx.tasks.jetstream")

REPEAT_INTERVAL = timedelta(seconds=60)
"""An error that stays the same is logged again after this time."""

MAX_TEXTS = 100
"""So many errors are known apart."""


class ConnectionLog:
    """Writes to the logger `diracx.tasks.jetstream`.

    Args:
        redact: Replaces the secrets in a text.
        clock: Returns seconds that never step back.
    """

    def __init__(self, redact: Callable[[str], str], clock: Clock) -> None:
        self._redact = redact
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def info(self, text: str) -> None:
        logger.info("%s", self._redact(text))

    def warning(self, text: str) -> None:
        logger.warning("%s", self._redact(text))

    def error(self, error: Exception) -> None:
        """Log an error, unless the same text was logged within `REPEAT_INTERVAL`.

        An end of the stream is skipped: the disconnect that follows it has a line of its own.
        """
        if isinstance(error, UnexpectedEOF):
            return
        text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        if isinstance(error, TimeoutError) and text == TimeoutError.__name__:  # it has no words of its own
            text = "no server answers in time"
        now = self._clock()
        before = self._logged_at.get(text)
        if before is not None and now - before < REPEAT_INTERVAL.total_seconds():
            return
        if len(self._logged_at) >= MAX_TEXTS:  # a denial names its subject, which may be another one each time
            self._logged_at.clear()
        self._logged_at[text] = now
        logger.error("%s", self._redact(text))

    def recovered(self) -> None:
        """Forget what was logged: the next outage logs its errors from the start."""
        self._logged_at.clear()
