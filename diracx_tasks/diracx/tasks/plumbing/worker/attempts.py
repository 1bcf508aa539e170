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
- Each write is a compare-and-set on the revision that was read. After a conflict `AttemptRecord.writer` decides:

      this very write                 it is stored already, its answer was lost: adopt what stands
      another write of this delivery,
      or the one that was seen last   somebody wrote down an interruption meanwhile: change what stands, and write again
      anything else                   another worker has the message: `StaleAttemptError`

- An execution adds its id to `unended` and takes it out at its end. Only a process that dies leaves it there. What a
  living worker had to give up, because its lease or its connection lapsed, is a debt: `interrupt_later` keeps it, and
  `run` takes the id out of whatever record stands, as soon as the server answers. That can be done twice, and is right
  whoever has the message by then.
- Only one write of a delivery is under way. A cancellation does not interrupt `begin`, so it is known what it counted.
- A record fits into one message of the server (`max_payload`). If it would not, the oldest failures lose their
  tracebacks, then all do, then the oldest failures are dropped. The counts stay.
- `stored_ns` ties a record to its message: in a stream that was created anew the sequences start at 1 again.
- A record that does not decode (somebody wrote it by hand) counts as empty, and the next write replaces it.

Crash points:

    executing, first delivery             nothing is stored, and nothing is counted
    executing, from the second on         its id stays in `unended`: one counted crash
    lapsed, debt not written yet          the same: the debts are in memory
    between the record and the nak        redelivered when the lease lapses; `not_before` and the count still hold
    between the ack and the deletion      the record is orphaned; `run` deletes it after a later `load_known`, once the
                                          stream has moved past its sequence (one old parked message delays that)

An operator who purges a queue of parked tasks leaves thousands of orphaned records, so no worker waits for their
deletion.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Final, TypeAlias
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from diracx.tasks.plumbing.background import uncancelled, wait_for_event
from diracx.tasks.plumbing.exceptions import ServerError, TaskError
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.key_value_store import Entry, RevisionConflictError
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.failure import Failure, shrinking

logger = logging.getLogger("diracx.tasks.worker")

MAX_FAILURES: Final = 20
MAX_TRIES: Final = 10
"""More conflicts in one write than interruptions that can be written down meanwhile."""
RETRY_SECONDS: Final = 1.0
MAX_KNOWN: Final = 10_000
"""Beyond so many known sequences, those that other workers have finished are forgotten."""
_BEGIN: Final = "begin"

_Change: TypeAlias = Callable[[AttemptRecord], AttemptRecord]


class StaleAttemptError(TaskError):
    """Another worker has written to the record since: it has the message. Or this worker gave the message back."""


_record_decoder = msgspec.json.Decoder(AttemptRecord)


class Attempts(msgspec.Struct):
    """The record of a message in flight, and its place in the bucket."""

    sequence: int
    record: AttemptRecord
    revision: int = 0
    """0: no record is stored."""
    begun_here: bool = False
    """Whether `unended` may hold this delivery: `begin` was called, and no end has been written."""
    given_up: bool = False
    """Whether the message is given back, or left to its next delivery: `begin` refuses from now on."""
    failure_written: bool = False
    """Whether the failure of this delivery is in the record: a settlement that is tried again counts it once."""
    id: str = ""
    """Unique to this delivery; made with its first write."""
    writing: asyncio.Lock | None = None
    """Held by the write that is under way; made with the first write."""
    delivered: int = 0
    """How often the server has delivered the message, this time included."""

    @property
    def refusals(self) -> int:
        """How many deliveries in a row, before this one, have written nothing: they found a lock busy, or were given
        back before they began. A server that was killed may have forgotten some."""
        return max(0, self.delivered - 1 - self.record.deliveries)


class AttemptStore:
    """The attempt records, as one worker uses them.

    Every method that asks the server raises `ServerUnavailableError` when no answer came.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._known: set[int] = set()
        self._learned: set[int] = set()
        """The sequences that got a record here lately; the latest list of records may lack them."""
        self._learning, self._max_known = asyncio.Lock(), MAX_KNOWN
        self._orphaned: list[int] = []
        self._debts: dict[int, set[str]] = {}
        """The ids of executions whose interruption has yet to be written down, by sequence."""
        self._unreadable: set[int] = set()
        """The sequences of records that do not decode; each is logged once."""
        self._to_do = asyncio.Event()

    async def load_known(self, first_sequence: int) -> None:
        """Learn which sequences have a record. Call it after each (re)connect, before pulling.

        Records that tasks in flight write meanwhile stay known.

        Args:
            first_sequence: The lowest sequence in the task stream. Older records are orphaned; `run` deletes them.
        """
        sequences = await self._learn()
        self._orphaned = [sequence for sequence in sequences if sequence < first_sequence]
        self._known.difference_update(self._orphaned)
        if self._orphaned:
            self._to_do.set()

    async def _learn(self) -> set[int]:
        """Learn which sequences have a record, and forget those of messages that other workers have finished.

        Those learned since the last time stay known: their records may be on their way to the server."""
        async with self._learning:
            before = set(self._learned)
            sequences = {int(key) for key in await self._bucket.keys() if key.isdecimal()}
            self._known = sequences | self._learned
            self._learned -= before
            self._max_known = max(MAX_KNOWN, 2 * len(self._known))
        return sequences

    async def run(self) -> None:
        """Write down interruptions, delete orphaned records, and forget finished messages, until cancelled."""
        while True:
            await self._to_do.wait()
            self._to_do.clear()
            try:
                await self._pay_debts()
                while self._orphaned:
                    await self._delete(self._orphaned.pop())
                if len(self._known) > self._max_known:
                    await self._learn()
            except ServerError as error:
                logger.debug("interruptions and orphaned attempt records have to wait: %s", error)
                await wait_for_event(self._to_do, RETRY_SECONDS)
                self._to_do.set()

    async def settle_debts(self, seconds: float) -> None:
        """Write down the interruptions that are still owed, for so long at the most: the worker stops.

        What cannot be written counts as a crash, and is logged. No server error is raised.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._debts:
                    try:
                        await self._pay_debts()
                    except ServerError as error:
                        logger.debug("interruptions have to wait: %s", error)
                        await asyncio.sleep(RETRY_SECONDS)
        if self._debts:
            logger.warning("interrupted executions of %d messages will count as crashes", len(self._debts))

    async def _pay_debts(self) -> None:
        for sequence in list(self._debts):
            await self._pay(sequence)

    async def _pay(self, sequence: int) -> None:
        """Take the executions that were given up out of the record, if they are there."""
        key, owed = str(sequence), frozenset(self._debts.get(sequence, ()))
        while (entry := await self._bucket.read(key)) is not None:
            record = self._decode(sequence, entry)
            if owed.isdisjoint(record.unended):
                break
            _, value = self._encode(_without(record, owed))
            with suppress(RevisionConflictError):  # whoever wrote may have kept it: look again
                await self._bucket.replace(key, value, None, entry.revision)
                break
        if rest := self._debts.get(sequence, set()) - owed:
            self._debts[sequence] = rest
        else:
            self._debts.pop(sequence, None)

    async def _delete(self, sequence: int) -> None:
        if (entry := await self._bucket.read(str(sequence))) is not None:
            await self._bucket.delete(str(sequence), entry.revision)

    def untried(self, delivery: Delivery) -> Attempts | None:
        """The empty record of a first delivery, without a request. None: it may have a record, so `read` it."""
        if delivery.delivered == 1 and delivery.sequence not in self._known:
            return Attempts(delivery.sequence, AttemptRecord(delivery.stored_ns), delivered=1)
        return None

    async def read(self, delivery: Delivery) -> Attempts:
        """Read the record of a message; an empty one when none is stored. Interruptions are written down before."""
        sequence = delivery.sequence
        if sequence in self._debts:
            await self._pay(sequence)
        entry = await self._bucket.read(str(sequence))
        if entry is None:
            return Attempts(sequence, AttemptRecord(delivery.stored_ns), delivered=delivery.delivered)
        record = self._decode(sequence, entry)
        if record.stored_ns != delivery.stored_ns:
            record = AttemptRecord(delivery.stored_ns)
        return Attempts(sequence, record, entry.revision, delivered=delivery.delivered)

    def _decode(self, sequence: int, entry: Entry) -> AttemptRecord:
        try:
            return _record_decoder.decode(entry.value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if sequence not in self._unreadable:
                self._unreadable.add(sequence)
                logger.error(
                    "the record %d in the bucket %s cannot be read, and counts as empty: %s",
                    *(sequence, self._bucket.name, error),
                )
            return AttemptRecord(0)

    async def begin(self, attempts: Attempts) -> None:
        """Count an execution that is about to begin. Until its end is written, it counts as a crash.

        A cancellation is raised when the write has ended.

        Raises:
            StaleAttemptError: Another worker has the message, or it was given back.
        """
        if attempts.given_up:
            raise StaleAttemptError(f"message {attempts.sequence} was given back before it began")
        attempts.begun_here = True
        await uncancelled(self._begin(attempts))

    async def _begin(self, attempts: Attempts) -> None:
        try:
            await self._write(attempts, _BEGIN, lambda record: replace(record, unended=(*record.unended, attempts.id)))
        except StaleAttemptError:
            attempts.begun_here = False
            raise

    async def fail(self, attempts: Attempts, failure: Failure, not_before: datetime) -> None:
        """Record a failure that will be retried at `not_before` or later. The second call does nothing.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if not attempts.failure_written:
            await self._write(attempts, "fail", lambda record: replace(_with(record, failure), not_before=not_before))
            attempts.failure_written = True

    async def exhaust(self, attempts: Attempts, failure: Failure | None, reason: str, *, dropped: bool = False) -> None:
        """Record that the message will not be executed again. The first reason stays.

        Args:
            failure: The failure of this delivery; None: it executed nothing.
            dropped: Whether the message is dropped. False: it becomes a dead letter.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        if attempts.record.exhausted is None:
            await self._write(
                attempts,
                "exhaust",
                lambda record: replace(_with(record, failure), exhausted=reason, dropped=dropped),
            )
            attempts.failure_written |= failure is not None

    async def interrupt(self, attempts: Attempts) -> None:
        """Record that a counted execution was interrupted, which is neither a failure nor a crash.

        The message does not begin any more. A `begin` that is under way ends first.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        attempts.given_up = True
        if attempts.begun_here:
            await self._write(attempts, "interrupt", lambda record: record)

    def interrupt_later(self, attempts: Attempts | None) -> None:
        """Have `run` record that a counted execution was interrupted: its message is left to another delivery.

        It is recorded whoever has the message by then, and tried until the server has answered.

        Args:
            attempts: None, or an execution that was not counted: nothing is to be recorded.
        """
        if attempts is None:
            return
        attempts.given_up = True
        if attempts.begun_here:
            attempts.begun_here = False
            self._debts.setdefault(attempts.sequence, set()).add(attempts.id)
            self._to_do.set()

    async def record_unknown(self, attempts: Attempts) -> None:
        """Count a delivery to a worker that does not know the task.

        Raises:
            StaleAttemptError: Another worker has the message.
        """
        await self._write(attempts, "unknown", lambda record: replace(record, unknown=record.unknown + 1))

    async def forget(self, attempts: Attempts) -> None:
        """Delete the record: the message is finished. Without a stored record it sends nothing."""
        if attempts.revision:
            # Read anew: an interruption may have been written down since.
            entry = await self._bucket.read(str(attempts.sequence))
            if entry is not None and self._decode(attempts.sequence, entry).stored_ns in (0, attempts.record.stored_ns):
                await self._bucket.delete(str(attempts.sequence), entry.revision)
        self._known.discard(attempts.sequence)
        self._learned.discard(attempts.sequence)
        self._unreadable.discard(attempts.sequence)
        self._debts.pop(attempts.sequence, None)

    def _encode(self, record: AttemptRecord) -> tuple[AttemptRecord, bytes]:
        """The record as it can be stored, and its JSON; its failures are shrunk until the server accepts it."""
        value = msgspec.json.encode(record)
        if len(value) > (limit := self._bucket.max_value_bytes):
            for failures in shrinking(record.failures):
                record = replace(record, failures=tuple(failures))
                value = msgspec.json.encode(record)
                if len(value) <= limit:
                    break
        return record, value

    async def _write(self, attempts: Attempts, verb: str, change: _Change) -> None:
        """Change the record. Each verb but `begin` ends the execution."""
        attempts.id = attempts.id or uuid4().hex
        attempts.writing = attempts.writing or asyncio.Lock()
        writer = f"{attempts.id}.{verb}"
        async with attempts.writing:
            # Known from here on: the write may be stored without an answer.
            self._known.add(attempts.sequence)
            self._learned.add(attempts.sequence)
            if len(self._known) > self._max_known:
                self._to_do.set()
            for _ in range(MAX_TRIES):
                changed = replace(change(attempts.record), writer=writer, deliveries=attempts.delivered)
                record, value = self._encode(changed if verb == _BEGIN else _without(changed, {attempts.id}))
                try:
                    revision = await self._bucket.replace(str(attempts.sequence), value, None, attempts.revision)
                except RevisionConflictError:
                    if not await self._adopt(attempts, writer):
                        continue
                else:
                    attempts.record, attempts.revision = record, revision
                if verb != _BEGIN:
                    attempts.begun_here = False
                return
        raise StaleAttemptError(f"the record of message {attempts.sequence} changed {MAX_TRIES} times during a write")

    async def _adopt(self, attempts: Attempts, writer: str) -> bool:
        """Take over the record that stands in the way of a write. Returns whether it is that very write.

        Raises:
            StaleAttemptError: Another worker wrote it.
        """
        entry = await self._bucket.read(str(attempts.sequence))
        record = AttemptRecord(0) if entry is None else self._decode(attempts.sequence, entry)
        own = record.writer.startswith(attempts.id) or record.writer == attempts.record.writer
        if entry is None or record.stored_ns != attempts.record.stored_ns or not own:
            raise StaleAttemptError(f"another worker has message {attempts.sequence}")
        attempts.record, attempts.revision = record, entry.revision
        return record.writer == writer


def _with(record: AttemptRecord, failure: Failure | None) -> AttemptRecord:
    if failure is None:
        return record
    return replace(record, failed=record.failed + 1, failures=(*record.failures, failure)[-MAX_FAILURES:])


def _without(record: AttemptRecord, executions: set[str] | frozenset[str]) -> AttemptRecord:
    return replace(record, unended=tuple(each for each in record.unended if each not in executions))
