"""What has been tried of a message: the bucket `attempts`, by sequence of the task stream.

A first delivery that succeeds reads and writes nothing here. A record appears with the first failure, or when a
message is executed from its second delivery on; it goes when the message is settled.

The number of deliveries on the server cannot serve instead: it counts contention and shutdowns, and the server
flushes it about ten times a second only, so that after a kill a message may come back with the count 1 and before
the delay of its nak. So after each (re)connect a worker loads which sequences have a record, and trusts the record.

Crash points. Killed while executing: `begun` stays ahead of `ended`, which is a crash. Killed between the record and
the nak: the message comes back when its lease lapses, and `not_before` still holds. Killed between the ack and the
removal of the record: the record is outlived, and removed after a later load, once the stream has moved past its
sequence. An operator who purges a queue of parked tasks leaves thousands of those, so no worker waits for them to go.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError, TaskError
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.locks import RevisionConflictError
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure

logger = logging.getLogger("diracx.tasks.worker")

_KEPT_FAILURES: Final = 20


class StaleAttemptError(TaskError):
    """Another worker has written to the record since: the message is in its hands."""


_record = msgspec.json.Decoder(AttemptRecord)


@dataclass(slots=True)
class Attempts:
    """The record of the message in hand, and where it stands in the bucket."""

    sequence: int
    record: AttemptRecord
    revision: int = 0
    """0: nothing is stored."""
    begun_here: bool = field(default=False)
    """Whether this delivery counts among `record.begun`."""
    writer: str = ""
    """Made with the first write."""


class AttemptStore:
    """The bucket `attempts`, as one worker sees it.

    Every method raises `ServerUnavailableError` when no answer came.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: set[int] = set()
        self._outlived: list[int] = []
        self._found = asyncio.Event()

    async def load(self, first_sequence: int) -> None:
        """Learn which sequences have a record. Call it after each (re)connect, before pulling.

        Args:
            first_sequence: The lowest sequence that the task stream still holds; older records are left to `run`.
        """
        sequences = [int(key) for key in await self._bucket.keys() if key.isdecimal()]
        self._known = {sequence for sequence in sequences if sequence >= first_sequence}
        self._outlived = [sequence for sequence in sequences if sequence < first_sequence]
        if self._outlived:
            self._found.set()

    async def run(self) -> None:
        """Remove, beside the work, what `load` finds to have outlived its message, until cancelled."""
        while True:
            await self._found.wait()
            self._found.clear()
            try:
                while self._outlived:
                    await self._remove(self._outlived.pop())
            except ServerError as error:  # the next load finds what is left
                logger.debug("outlived records are left for now: %s", error)

    async def _remove(self, sequence: int) -> None:
        if (entry := await self._bucket.read(str(sequence))) is not None:
            await self._bucket.delete(str(sequence), entry.revision)

    def untried(self, delivery: Delivery) -> Attempts | None:
        """The empty record of a first delivery, without asking the server; None when it must be read."""
        if delivery.delivered == 1 and delivery.sequence not in self._known:
            return Attempts(delivery.sequence, AttemptRecord(delivery.stored_ns))
        return None

    async def read(self, delivery: Delivery) -> Attempts:
        """Read the record of a message that may have been tried before."""
        entry = await self._bucket.read(str(delivery.sequence))
        empty = AttemptRecord(delivery.stored_ns)
        if entry is None:
            return Attempts(delivery.sequence, empty)
        record = _record.decode(entry.value)
        if record.stored_ns != delivery.stored_ns:
            record = empty
        return Attempts(delivery.sequence, record, entry.revision)

    async def begin(self, attempts: Attempts) -> None:
        """Count an execution that is about to begin.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, begun=attempts.record.begun + 1)
        attempts.begun_here = True

    async def fail(self, attempts: Attempts, failure: Failure, not_before: datetime) -> None:
        """Record a failure that will be retried, not before `not_before`.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, not_before=not_before, **self._with(attempts, failure))

    async def exhaust(self, attempts: Attempts, failure: Failure | None, reason: str) -> None:
        """Record that the message will not be executed again.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if attempts.record.exhausted is None:
            await self._write(attempts, exhausted=reason, **self._with(attempts, failure))

    async def interrupt(self, attempts: Attempts) -> None:
        """Take back that an execution was begun: it was interrupted, which is neither a failure nor a crash.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if attempts.begun_here:
            await self._write(attempts, ended=attempts.record.ended + 1)
            attempts.begun_here = False

    async def miss(self, attempts: Attempts) -> None:
        """Count a delivery to a worker that does not know the task.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, unknown=attempts.record.unknown + 1)

    async def forget(self, attempts: Attempts) -> None:
        """Remove the record: the message is settled."""
        if attempts.revision:
            await self._bucket.delete(str(attempts.sequence), attempts.revision)
        self._known.discard(attempts.sequence)

    @staticmethod
    def _with(attempts: Attempts, failure: Failure | None) -> dict[str, object]:
        record = attempts.record
        changes: dict[str, object] = {}
        if failure is not None:
            changes["failed"] = record.failed + 1
            changes["failures"] = (*record.failures, failure)[-_KEPT_FAILURES:]
        if attempts.begun_here:
            changes["ended"] = record.ended + 1
        return changes

    async def _write(self, attempts: Attempts, **changes: object) -> None:
        attempts.writer = attempts.writer or uuid4().hex
        record = msgspec.structs.replace(attempts.record, writer=attempts.writer, **changes)
        value = msgspec.json.encode(record)
        key = str(attempts.sequence)
        try:
            revision = await self._bucket.replace(key, value, None, attempts.revision)
        except RevisionConflictError:
            entry = await self._bucket.read(key)
            if entry is None or entry.value != value:
                raise StaleAttemptError(f"message {key} is in another worker's hands") from None
            revision = entry.revision  # our own write, whose answer was lost
        attempts.record, attempts.revision = record, revision
        self._known.add(attempts.sequence)
        if "ended" in changes:
            attempts.begun_here = False
