"""What a worker or scheduler learns of its mesh now and then: what is missing, and the time of the server.

A stream or bucket that an operator deletes is noticed within `INTERVAL`, also while nothing is asked of it. The answers
have the server's time, so `Connection.clock` never rests on an old one. It costs one request for each stream and
bucket, and nothing for each task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.clock import TOLERANCE
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import Asset
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import NotConnectedError
from diracx.tasks.plumbing.jetstream.topology import missing
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure

INTERVAL: Final = timedelta(seconds=15)
RETRY_SECONDS: Final = 5.0
"""The time between two looks while something is missing."""


class MeshWatch:
    """Looks at a mesh while `run` runs.

    Args:
        needed: The streams and buckets without which this process cannot do all of its work.
        logger: Takes the lines about what is missing, and about the clock.
    """

    def __init__(
        self, connection: Connection, needed: Iterable[Asset], logger: logging.Logger, interval: timedelta = INTERVAL
    ) -> None:
        self._connection = connection
        self._needed = list(needed)
        self._logger = logger
        self._interval = interval.total_seconds()
        self._lack = LastingFailure(logger, "not all work can be done", "nothing is missing any more")
        self._told_ahead = timedelta(0)
        """How far the clock of this machine was ahead when that was last logged; 0: it is right."""
        self._reconnected = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """What is missing, and what to do; None: nothing is, as far as is known."""
        return self._lack.reason

    async def run(self) -> None:
        """Look at once, every `interval`, and after each reconnect, until cancelled."""
        self._connection.on_reconnect(self._reconnected.set)
        try:
            while True:
                await self.look()
                pause = self._interval if self.problem is None else min(self._interval, RETRY_SECONDS)
                await wait_for_event(self._reconnected, pause)
                self._reconnected.clear()
        finally:
            self._connection.remove_on_reconnect(self._reconnected.set)

    async def look(self) -> None:
        """Look once. An outage changes nothing of what is known: the connection tells of it."""
        try:
            problem = await missing(self._connection, self._needed)
        except NotConnectedError:
            return
        except ServerError as error:
            problem = f"the streams cannot be looked at: {error}"
        if problem is None:
            self._lack.succeeded()
        else:
            self._lack.failed(problem)
        self._compare_clocks()

    def _compare_clocks(self) -> None:
        ahead = self._connection.clock.ahead
        if ahead is None or abs(ahead - self._told_ahead) <= TOLERANCE:
            return
        if abs(ahead) <= TOLERANCE:
            self._told_ahead = timedelta(0)
            self._logger.info("the clock of this machine agrees with the server's again")
            return
        self._told_ahead = ahead
        way = "ahead of" if ahead > timedelta(0) else "behind"
        self._logger.warning(
            "the clock of this machine is %.0f s %s the server's: the server's counts; set this one right",
            abs(ahead).total_seconds(),
            way,
        )
