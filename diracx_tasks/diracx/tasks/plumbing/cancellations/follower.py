"""Which tasks are cancelled? A follower keeps a worker up to date, and counts what became of those it had.

* All notes are read before the first task, and followed from then on, for as long as the worker runs.
* A subscription wakes the follower, so that a running task hears of it at once. What counts is the poll once a second,
  through the leader of the stream: a subscription may be dead or forbidden without notice.
* A poll that fails changes nothing: the notes that are known stay in force.
* A poll asks for the latest note alone. If that is another one than before, those after the last known one are read;
  if its sequence is a lower one, all are: notes were removed, or the stream was made anew. All are read again now and
  then, too, and after a reconnect.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.cancellations.note import Identity, Kind, Note
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerError, shown
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message, read_messages
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.cancellations")

POLL_INTERVAL: Final = timedelta(seconds=1)
REREAD_SECONDS: Final = 600.0
"""So often all notes are read, which forgets those that were removed."""
MAX_LINES: Final = 5
"""So many new notes have a line of their own."""
WAKE_SECONDS: Final = 0.02
"""After the subscription has heard of a note it is stored within this time, mostly; if not, the next poll has it."""


class StandingNote:
    """A note that is in force, and what this worker has done about it since it knows it."""

    __slots__ = ("cancelled", "finished", "note", "sequence")

    def __init__(self, note: Note, sequence: int) -> None:
        self.note, self.sequence = note, sequence
        self.cancelled = 0
        """How many tasks it has settled as cancelled."""
        self.finished = 0
        """How many tasks were running then, and came to their end all the same."""


class CancellationFollower:
    """Follows the cancellations of one mesh while `run` runs.

    Args:
        poll_interval: The time between two polls.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        *,
        poll_interval: timedelta = POLL_INTERVAL,
        clock: Clock = boottime,
    ) -> None:
        self._connection, self._clock = connection, clock
        self._stream, self._subjects = namespace.later_stream, namespace.all_cancelled
        self._poll_seconds = poll_interval.total_seconds()
        self.any = False
        """Whether there is any. While there is none, no other method need be called."""
        self._notes: dict[tuple[Kind, str], StandingNote] = {}
        self._latest: tuple[int, datetime] | None = None
        """The sequence and time of the latest note that was seen."""
        self._reread_at, self._generation = 0.0, -1
        self._callbacks: list[Callable[[], None]] = []
        self._heard = asyncio.Event()
        self._reading = asyncio.Lock()
        """Of two that refresh at once, the second finds nothing new: each note is counted and logged once."""

    def on_new(self, callback: Callable[[], None]) -> None:
        """Call `callback` after notes were added."""
        self._callbacks.append(callback)

    def reason(self, delivery: Delivery) -> str | None:
        """Why the task of this message must not execute; None: it may."""
        standing = self._concerning(delivery)
        return None if standing is None else standing.note.reason

    def count(self, delivery: Delivery, *, cancelled: bool) -> None:
        """Count a task that has ended for good, if a note concerns it.

        Args:
            cancelled: Whether it ended as cancelled.
        """
        if (standing := self._concerning(delivery)) is None:
            return
        if cancelled:
            standing.cancelled += 1
        else:
            standing.finished += 1

    def standing(self, kind: Kind, key: str) -> StandingNote | None:
        """The note with this key; None: none is in force here."""
        return self._notes.get((kind, key))

    def _concerning(self, delivery: Delivery) -> StandingNote | None:
        message = Identity.of(delivery.headers, delivery.sequence, delivery.stored)
        keys: tuple[tuple[Kind, str | None], ...] = (
            (Kind.ID, message.id),
            (Kind.GROUP, message.group),
            (Kind.TASK, message.task),
        )
        for kind, key in keys:
            standing = None if key is None else self._notes.get((kind, key))
            if standing is not None and standing.note.concerns(message):
                return standing
        return None

    async def refresh(self) -> None:
        """Read what has changed.

        Raises:
            ServerError: The notes cannot be read; those that are known stay in force.
        """
        async with self._reading:
            latest = await read_message(self._connection, self._stream, strict=True, last_by_subj=self._subjects)
            if latest is None:
                self._latest = None
                self._replace({})
                return
            generation, known = self._connection.generation, self._latest
            stale = self._generation != generation or self._clock() >= self._reread_at
            seen = (latest.sequence, latest.stored)
            if seen == known and not stale:
                return
            anew = stale or known is None or latest.sequence <= known[0]
            await self._read(1 if anew or known is None else known[0] + 1, anew=anew)
            if anew:
                self._reread_at, self._generation = self._clock() + REREAD_SECONDS, generation
            self._latest = seen

    async def _read(self, first: int, *, anew: bool) -> None:
        found: dict[tuple[Kind, str], StandingNote] = {}
        async for message in read_messages(self._connection, self._stream, self._subjects, first=first):
            if (standing := self._parsed(message)) is not None:
                found[standing.note.kind, standing.note.key] = standing
        self._replace(found if anew else self._notes | found)

    def _parsed(self, message: StoredMessage) -> StandingNote | None:
        try:
            note = Note.from_message(message)
        except ValueError as error:
            logger.error("no cancellation, and ignored: %s", error)
            return None
        before = self._notes.get((note.kind, note.key))
        same = before is not None and (before.sequence, before.note) == (message.sequence, note)
        return before if same else StandingNote(note, message.sequence)

    def _replace(self, notes: dict[tuple[Kind, str], StandingNote]) -> None:
        """Put these notes in force. They are the same objects where they were known."""
        new = [standing.note for key, standing in notes.items() if self._notes.get(key) is not standing]
        self._notes, self.any = notes, bool(notes)
        for note in new[-MAX_LINES:]:
            logger.info("%s %s is %s", note.kind, shown(note.key), note.reason)
        if len(new) > MAX_LINES:
            logger.info("and %d other cancellations are in force", len(new) - MAX_LINES)
        if new:
            for callback in self._callbacks:
                callback()

    async def run(self) -> None:
        """Follow until cancelled."""
        text = "the cancellations cannot be read, and those that are known stay in force"
        failing = LastingFailure(logger, text, "the cancellations are read again")
        subscription = await self._connection.client.listen(self._subjects, lambda _: self._heard.set())
        try:
            while True:
                self._heard.clear()
                try:
                    await self.refresh()
                except ServerError as error:
                    failing.failed(str(error))
                else:
                    failing.succeeded()
                await wait_for_event(self._heard, self._poll_seconds)
                await asyncio.sleep(WAKE_SECONDS)
        finally:
            await self._connection.client.leave(subscription)
