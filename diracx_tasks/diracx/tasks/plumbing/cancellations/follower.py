"""Which tasks are cancelled? A follower keeps a worker up to date."""

from __future__ import annotations

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.envelope import Envelope
from diracx.tasks.plumbing.wire.names import Namespace


class CancellationFollower:
    """Follows the cancellations of one mesh while `run` runs."""

    def __init__(self, connection: Connection, namespace: Namespace) -> None:
        self._connection, self._namespace = connection, namespace
        self.any = False
        """Whether there is any. While there is none, `reason` is not called."""

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
