"""The attempt record of a message: what has been tried, in the bucket `attempts`, by sequence of the task stream.

The number of deliveries on the server cannot serve instead: it counts lock waits and shutdowns too, and the server
writes it to disk only about ten times a second. After a kill of the server a message may come back with the count 1
and before the delay of its nak. So the count only hints that a record may exist (2 or more); the record tells the rest.

Invariants:

- A first delivery that succeeds neither reads nor writes here. A record appears with the first failure, with a
  delivery to a worker that does not know the task, with the decision that the message is dead, or with an execution
  from the second delivery on. It is deleted when the message is finished.
- After each (re)connect, before the first pull, the worker learns which sequences have a record (`load_known`). A
  delivery of one of them reads the record, even at the count 1.
- Each write is a compare-and-set on the revision that was read. A conflict means that another worker has the message
  (`StaleAttemptError`), unless the stored value is our own write whose answer was lost (`AttemptRecord.writer`).
- A record fits into one message of the server (`max_payload`). If it would not, the oldest failures lose their
  tracebacks, then all do, then the oldest failures are dropped. The counts stay.
- `stored_ns` ties a record to its message: in a stream that was created anew the sequences start at 1 again.

Crash points:

    executing, first delivery             nothing is stored, and nothing is counted
    executing, from the second on         `begun` stays ahead of `ended`: one counted crash
    between the record and the nak        redelivered when the lease lapses; `not_before` and the count still hold
    between the ack and the deletion      the record is orphaned; `run` deletes it after a later `load_known`, once the
                                          stream has moved past its sequence (one old parked message delays that)

An operator who purges a queue of parked tasks leaves thousands of orphaned records, so no worker waits for their
deletion.
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
from diracx.tasks.plumbing.wire.failure import Failure, shrinking

logger = logging.getLogger("diracx.tasks.worker")

MAX_FAILURES: Final = 20


class StaleAttemptError(TaskError):
    """Another worker has written to the record since: it has the message."""


_record_decoder = msgspec.json.Decoder(AttemptRecord)


@dataclass(slots=True)
class Attempts:
    """The record of a message in flight, and its place in the bucket."""

    sequence: int
    record: AttemptRecord
    revision: int = 0
    """0: no record is stored."""
    begun_here: bool = field(default=False)
    """Whether `record.begun` counts this delivery."""
    failure_written: bool = False
    """Whether the failure of this delivery is in the record: a settlement that is tried again counts it once."""
    writer: str = ""
    """Unique to this delivery; made with its first write."""


class AttemptStore:
    """The attempt records, as one worker uses them.

    Every method that asks the server raises `ServerUnavailableError` when no answer came.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: set[int] = set()
        self._learned: set[int] = set()
        """The sequences that got a record here since `load_known` was last called; it may not have listed them."""
        self._orphaned: list[int] = []
        self._orphans_found = asyncio.Event()

    async def load_known(self, first_sequence: int) -> None:
        """Learn which sequences have a record. Call it after each (re)connect, before pulling.

        Records that tasks in flight write meanwhile stay known.

        Args:
            first_sequence: The lowest sequence in the task stream. Older records are orphaned; `run` deletes them.
        """
        self._learned.clear()
        sequences = [int(key) for key in await self._bucket.keys() if key.isdecimal()]
        self._known = {sequence for sequence in sequences if sequence >= first_sequence} | self._learned
        self._orphaned = [sequence for sequence in sequences if sequence < first_sequence]
        if self._orphaned:
            self._orphans_found.set()

    async def run(self) -> None:
        """Delete the orphaned records that `load_known` finds, beside the work, until cancelled."""
        while True:
            await self._orphans_found.wait()
            self._orphans_found.clear()
            try:
                while self._orphaned:
                    await self._delete(self._orphaned.pop())
            except ServerError as error:  # the next `load_known` finds the rest
                logger.debug("orphaned attempt records are left for now: %s", error)

    async def _delete(self, sequence: int) -> None:
        if (entry := await self._bucket.read(str(sequence))) is not None:
            await self._bucket.delete(str(sequence), entry.revision)

    def untried(self, delivery: Delivery) -> Attempts | None:
        """The empty record of a first delivery, without a request. None: it may have a record, so `read` it."""
        if delivery.delivered == 1 and delivery.sequence not in self._known:
            return Attempts(delivery.sequence, AttemptRecord(delivery.stored_ns))
        return None

    async def read(self, delivery: Delivery) -> Attempts:
        """Read the record of a message; an empty one when none is stored."""
        entry = await self._bucket.read(str(delivery.sequence))
        empty = AttemptRecord(delivery.stored_ns)
        if entry is None:
            return Attempts(delivery.sequence, empty)
        record = _record_decoder.decode(entry.value)
        if record.stored_ns != delivery.stored_ns:
            record = empty
        return Attempts(delivery.sequence, record, entry.revision)

    async def begin(self, attempts: Attempts) -> None:
        """Count an execution that is about to begin. Until `ended` follows, it counts as a crash.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, begun=attempts.record.begun + 1)
        attempts.begun_here = True

    async def fail(self, attempts: Attempts, failure: Failure, not_before: datetime) -> None:
        """Record a failure that will be retried at `not_before` or later.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, not_before=not_before, **self._with(attempts, failure))
        attempts.failure_written = True

    async def exhaust(self, attempts: Attempts, failure: Failure | None, reason: str) -> None:
        """Record that the message will not be executed again. The first reason stays.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if attempts.record.exhausted is None:
            await self._write(attempts, exhausted=reason, **self._with(attempts, failure))

    async def interrupt(self, attempts: Attempts) -> None:
        """Record that a counted execution was interrupted, which is neither a failure nor a crash.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if attempts.begun_here:
            await self._write(attempts, ended=attempts.record.ended + 1)
            attempts.begun_here = False

    async def record_unknown(self, attempts: Attempts) -> None:
        """Count a delivery to a worker that does not know the task.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, unknown=attempts.record.unknown + 1)

    async def forget(self, attempts: Attempts) -> None:
        """Delete the record: the message is finished. Without a stored record it sends nothing."""
        if attempts.revision:
            await self._bucket.delete(str(attempts.sequence), attempts.revision)
        self._known.discard(attempts.sequence)
        self._learned.discard(attempts.sequence)

    @staticmethod
    def _with(attempts: Attempts, failure: Failure | None) -> dict[str, object]:
        record = attempts.record
        changes: dict[str, object] = {}
        if failure is not None:
            changes["failed"] = record.failed + 1
            changes["failures"] = (*record.failures, failure)[-MAX_FAILURES:]
        if attempts.begun_here:
            changes["ended"] = record.ended + 1
        return changes

    def _encode(self, record: AttemptRecord) -> tuple[AttemptRecord, bytes]:
        """The record as it can be stored, and its JSON; its failures are shrunk until the server accepts it."""
        value = msgspec.json.encode(record)
        if len(value) > (limit := self._bucket.max_value_bytes):
            for failures in shrinking(record.failures):
                record = msgspec.structs.replace(record, failures=tuple(failures))
                value = msgspec.json.encode(record)
                if len(value) <= limit:
                    break
        return record, value

    async def _write(self, attempts: Attempts, **changes: object) -> None:
        attempts.writer = attempts.writer or uuid4().hex
        record, value = self._encode(msgspec.structs.replace(attempts.record, writer=attempts.writer, **changes))
        key = str(attempts.sequence)
        try:
            revision = await self._bucket.replace(key, value, None, attempts.revision)
        except RevisionConflictError:
            entry = await self._bucket.read(key)
            if entry is None or entry.value != value:
                raise StaleAttemptError(f"another worker has message {key}") from None
            revision = entry.revision  # our own write, whose answer was lost
        attempts.record, attempts.revision = record, revision
        self._known.add(attempts.sequence)
        self._learned.add(attempts.sequence)
        if "ended" in changes:
            attempts.begun_here = False
