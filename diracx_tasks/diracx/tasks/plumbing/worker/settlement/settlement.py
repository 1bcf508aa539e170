"""From an outcome to writes and an answer (ack, nak, term) to the server.

A delivery that was interrupted without an outcome is given back by `give_back` here. One whose event loop ends, or that
finds no room, is given back by `InFlight.give_back`.

    Succeeded      ack
    Discarded      ack, with a warning
    Cancelled      ack
    Retry          write the failure and `not_before`; nak with the delay
    LockBusy       nak with a delay; nothing is written
    Held           the same
    Interrupted    write that a counted execution ended; nak
    Dead           write `exhausted`; store the dead letter; term
    WrongQueue     store a copy in the right queue; ack

Invariants:

- Order of writes: the attempt record, the result of the task, its completion in its group, the dead letter or the copy,
  then the answer. Each write is awaited before the next. If one fails, the message is not settled: its lease lapses, it
  is redelivered, and the record shows how far it got. So each step can be done twice. The server does not confirm an
  answer; all leave on one connection, in order.
- The lease is checked before the first write, and right before the answer if anything was awaited in between.
- After an ack or a term the record is deleted, and for a task that fell due its copy in the stream of later tasks.
  If a deletion fails, the message is settled nevertheless. After a nak the record stays.

Crash points:

    record written, no nak yet           `not_before` and the count hold: the retry keeps its time and its number
    result written, not answered yet     it is replaced by that of the next execution
    completion written, not answered     the next one changes nothing: the first completion of a child counts
    exhausted, no dead letter yet        never executed again; the next delivery stores the dead letter
    dead letter stored, no term yet      the next delivery stores it again, which changes nothing, and terms
    copy stored, no ack yet              the next delivery stores it again; the stream drops the duplicate by its id,
                                         within its duplicate window
    acked, record not deleted yet        the record is orphaned, see attempts.py
    answered, and the server is killed   the answer is sent again after the reconnect, see ack_replay.py; a task that
                                         another worker gets before that may be executed once more
    delayed nak not sent yet             the message is redelivered when its lease lapses, see nak_batcher.py
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Final

from diracx.tasks.plumbing.background import carried_through
from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Held,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.headers import without_server_headers
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import delete_message
from diracx.tasks.plumbing.wire.envelope import MSG_ID, TASK_MOVED
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore, StaleAttemptError
from diracx.tasks.plumbing.worker.leases import Lease, LeaseLapsedError
from diracx.tasks.plumbing.worker.settlement.ack_replay import AckReplay
from diracx.tasks.plumbing.worker.settlement.endings import Endings
from diracx.tasks.plumbing.worker.settlement.lock_backoff import LockBackoff
from diracx.tasks.plumbing.worker.settlement.nak_batcher import NakBatcher

logger = logging.getLogger("diracx.tasks.worker")

RETRY_SECONDS: Final = 0.5
"""The time between two tries to delete what a finished message left."""

_FINISHING: Final = (Succeeded, Discarded, Cancelled, Dead, WrongQueue)
"""Outcomes that end with an ack or a term."""


class Settlement:
    """Settles the messages of one worker.

    Args:
        lock_retry_delay: How long a task waits at first when its lock is busy, see `LockBackoff`, and when the
            configuration holds it.
    """

    def __init__(
        self,
        connection: Connection,
        attempts: AttemptStore,
        dead_letters: DeadLetterStore,
        endings: Endings,
        lock_retry_delay: timedelta = timedelta(seconds=5),
    ) -> None:
        self._connection = connection
        self._attempts = attempts
        self._dead_letters = dead_letters
        self._endings = endings
        self._lock_backoff = LockBackoff(lock_retry_delay)
        self._hold_backoff = LockBackoff(lock_retry_delay)
        self.ack_replay = AckReplay(connection)
        """To be resent after each reconnect."""
        self.on_writing: Callable[[Lease], object] = lambda lease: None
        """Called when the task of a message has ended, before its result and its completion are written: the next task
        need not wait for that, and more ends go together into one write."""
        self.naks = NakBatcher(connection)
        """To be closed when the worker ends."""

    async def settle(self, lease: Lease, name: str, attempts: Attempts, outcome: Outcome) -> None:
        """Write the outcome of a delivery, and answer the server.

        When the connection is lost in the middle, it is tried again after the reconnect, while the lease holds: that
        saves a redelivery. Once the answer was sent, nothing is raised any more.

        After a success no cancellation breaks it off: the code of the task may cancel the asyncio task in which it ran,
        at any later time.

        Args:
            name: The name of the task, for the log.

        Raises:
            LeaseLapsedError: Another worker may have the message; no answer was sent.
            StaleAttemptError: Another worker has the message; no answer was sent.
            ServerError: The server refused, or stayed away until the lease lapsed.
            SendTaskError: The dead letter or the copy was refused.
        """
        lease.close()
        while True:
            lease.ensure_held()
            try:
                await self._effects_of(outcome, lease, name, attempts)
                break
            except ServerError as error:
                if self._connection.is_connected or lease.remaining <= 0:
                    raise
                logger.info("%s waits for the server to be settled: %s", name, error)
                if not await carried_through(self._connection.wait_connected(lease.remaining)):
                    raise
        self._log_end(lease, "done" if isinstance(outcome, Succeeded) else f"ended as {type(outcome).__name__}")
        # Most messages have neither a record nor a copy.
        if isinstance(outcome, _FINISHING) and (attempts.revision or lease.delivery.origin is not None):
            await carried_through(self._clean_up(lease, name, attempts))
        if lease.delivery.origin is not None:  # an occurrence of a schedule, maybe
            self.on_writing(lease)
            await carried_through(self._endings.note_run(lease.delivery, outcome, lease.elapsed))

    def ack_at_once(self, lease: Lease) -> bool:
        """Ack a success that leaves nothing to write or to delete, as most do, at the cost of one call.

        Returns:
            False: there is no connection; `settle` waits for it.

        Raises:
            LeaseLapsedError: Another worker may have the message; no answer was sent.
        """
        lease.close()
        lease.ensure_held()
        try:
            lease.delivery.ack()
        except ServerUnavailableError:
            return False
        self.ack_replay.record_ack(lease)
        return True

    def _log_end(self, lease: Lease, ending: str) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            sequence = lease.delivery.sequence
            text = "%s: %s (message %d) in %.3f s"
            logger.debug(text, ending, lease.name, sequence, lease.elapsed, extra=lease.timing)

    def _effects_of(self, outcome: Outcome, lease: Lease, name: str, attempts: Attempts) -> Coroutine[Any, Any, None]:
        match outcome:
            case Succeeded():
                return self._succeed(lease, attempts, outcome)
            case Retry():
                return self._retry(lease, name, attempts, outcome)
            case LockBusy():
                return self._postpone_for_lock(lease, name, outcome)
            case Held():
                return self._hold(lease, name, outcome)
            case Dead():
                return self._dead_letter(lease, name, attempts, outcome)
            case Discarded():
                return self._discard(lease, name, attempts, outcome)
            case Cancelled():
                return self._cancel(lease, name, attempts, outcome)
            case WrongQueue():
                return self._requeue(lease, name, outcome)
            case Interrupted():
                return self._interrupt(lease, name, attempts, outcome)

    async def give_back(self, lease: Lease, name: str) -> None:
        """Nak a message that was interrupted without an outcome, and leave its record as it is. An error is only
        logged."""
        lease.close()
        try:
            lease.ensure_held()
            lease.nak()
        except (LeaseLapsedError, ServerError) as error:
            logger.warning("left %s unsettled: %s", name, error)

    async def record_late(self, name: str, attempts: Attempts, outcome: Outcome) -> None:
        """Write down the outcome of an execution whose lease lapsed. Call it after `LeaseLapsedError`; nothing is sent.

        A failure is written, and decides about the next delivery, if no other delivery of the message has written
        since. Else, and for any other outcome, a counted execution is recorded as interrupted, if only later. An error
        is only logged. If another worker has finished the message meanwhile, the record of a first delivery is
        orphaned, see attempts.py.

        Args:
            name: The name of the task, for the log.
        """
        try:
            if not isinstance(outcome, Retry | Dead | Discarded):
                return
            failure = outcome.failure
            if failure is None or failure is attempts.record.last_failure:
                return  # this delivery has not failed
            if isinstance(outcome, Retry):
                await self._attempts.fail(attempts, failure, outcome.at)
            else:
                dropped = isinstance(outcome, Discarded)
                await self._attempts.exhaust(attempts, failure, outcome.reason, dropped=dropped)
            text = "%s (message %d) failed, though its lease had lapsed: %s: %s"
            _log_failure(logging.WARNING, failure, text, name, attempts.sequence, failure.type, failure.message)
        except (StaleAttemptError, ServerError) as error:
            logger.info("the late failure of %s (message %d) is not recorded: %s", name, attempts.sequence, error)
        finally:
            self._attempts.interrupt_later(attempts)

    async def ack_again(self, lease: Lease, name: str) -> None:
        """Ack a message that the `ack_replay` knows as finished: the server was killed and forgot the first answer.

        The lease is not checked: whoever has the message, it need never be executed again.

        Raises:
            ServerUnavailableError: No connection.
        """
        logger.info("%s (message %d) was settled before; the server had forgotten", name, lease.delivery.sequence)
        lease.delivery.ack()

    async def _succeed(self, lease: Lease, attempts: Attempts, outcome: Succeeded) -> None:
        if self._endings.concern(lease.delivery.headers or {}):
            await self._write_ending(lease, attempts, outcome)
        self._ack(lease)

    async def _discard(self, lease: Lease, name: str, attempts: Attempts, outcome: Discarded) -> None:
        await self._write_ending(lease, attempts, outcome)
        self._ack(lease)
        text = "dropped %s (message %d): %s"
        _log_failure(logging.WARNING, outcome.failure, text, name, lease.delivery.sequence, outcome.reason, lease=lease)

    async def _cancel(self, lease: Lease, name: str, attempts: Attempts, outcome: Cancelled) -> None:
        await self._write_ending(lease, attempts, outcome)
        self._ack(lease)
        text = "cancelled %s (message %d): %s"
        logger.info(text, name, lease.delivery.sequence, outcome.reason, extra=lease.timing)

    async def _write_ending(self, lease: Lease, attempts: Attempts, outcome: Outcome) -> None:
        """Write the result of the task, and its completion in its group, as far as it has either."""
        if self._endings.concern(lease.delivery.headers or {}):
            self.on_writing(lease)
            await self._endings.write(lease.delivery, outcome, attempts.record)
            lease.ensure_held()

    async def _retry(self, lease: Lease, name: str, attempts: Attempts, outcome: Retry) -> None:
        await self._attempts.fail(attempts, outcome.failure, outcome.at)
        delay = max(outcome.at - self._connection.clock.now(), timedelta(0))
        lease.ensure_held()
        self.naks.send(lease, delay)
        self.ack_replay.record_nak(lease, outcome.at)
        logger.info(
            "will retry %s (message %d) in %.1f s: %s: %s",
            name,
            lease.delivery.sequence,
            delay.total_seconds(),
            outcome.failure.type,
            outcome.failure.message,
            extra=lease.timing,
        )

    async def _postpone_for_lock(self, lease: Lease, name: str, outcome: LockBusy) -> None:
        delay = self._lock_backoff.delay(outcome)
        self.naks.send(lease, delay)
        level = logging.INFO if self._lock_backoff.should_log() else logging.DEBUG
        logger.log(level, "%s waits %.1f s: %s", name, delay.total_seconds(), outcome.error, extra=lease.timing)

    async def _hold(self, lease: Lease, name: str, outcome: Held) -> None:
        delay = self._hold_backoff.delay(outcome)
        self.naks.send(lease, delay)
        level = logging.INFO if self._hold_backoff.should_log() else logging.DEBUG
        logger.log(
            level,
            "%s is held by %s: false, and is looked at again in %.1f s",
            name,
            outcome.path,
            delay.total_seconds(),
            extra=lease.timing,
        )

    async def _interrupt(self, lease: Lease, name: str, attempts: Attempts, outcome: Interrupted) -> None:
        await self._attempts.interrupt(attempts)
        lease.ensure_held()
        self.naks.send(lease, outcome.delay)
        level = logging.DEBUG if outcome.quiet else logging.INFO
        text = "gave back %s (message %d): %s"
        logger.log(level, text, name, lease.delivery.sequence, outcome.reason, extra=lease.timing)
        if outcome.delay and attempts.record.not_before is not None:  # the record enforces that time
            self.ack_replay.record_nak(lease, attempts.record.not_before)

    async def _dead_letter(self, lease: Lease, name: str, attempts: Attempts, outcome: Dead) -> None:
        await self._attempts.exhaust(attempts, outcome.failure, outcome.reason)
        await self._write_ending(lease, attempts, outcome)
        record = attempts.record
        executions = record.failed + record.crashes
        await self._dead_letters.store(lease.delivery, outcome.reason, executions, record.failures)
        lease.ensure_held()
        lease.delivery.term(outcome.reason)
        self.ack_replay.record_term(lease, outcome.reason)
        text, failure = "dead: %s (message %d): %s", attempts.record.last_failure
        _log_failure(logging.ERROR, failure, text, name, lease.delivery.sequence, outcome.reason, lease=lease)

    async def _requeue(self, lease: Lease, name: str, outcome: WrongQueue) -> None:
        # The id names the copied message, not the task: the stream drops a second copy of this message, and keeps the
        # copy of a later move of the same task. The task keeps its id.
        delivery, subject = lease.delivery, outcome.subject
        headers = without_server_headers(delivery.headers)
        headers[TASK_MOVED] = str(int(headers.get(TASK_MOVED, 0)) + 1)
        headers[MSG_ID] = f"{delivery.sequence}.{delivery.stored_ns}@{subject}"
        await publish(self._connection, subject, delivery.body, headers)
        lease.ensure_held()
        self._ack(lease)
        logger.info("moved %s (message %d) to %s", name, delivery.sequence, subject, extra=lease.timing)

    def _ack(self, lease: Lease) -> None:
        lease.delivery.ack()
        self.ack_replay.record_ack(lease)

    async def _clean_up(self, lease: Lease, name: str, attempts: Attempts) -> None:
        """Delete the attempt record of a finished message, and its copy in the stream of later tasks.

        A task stream that is created anew sources the stream of later tasks again. With its copy deleted, a settled
        task does not return. A copy that cannot be deleted expires by itself.
        """
        await self._delete(lease, name, "attempt record", lambda: self._attempts.forget(attempts))
        if (origin := lease.delivery.origin) is not None:
            self.on_writing(lease)
            await self._delete(lease, name, f"copy in {origin[0]}", lambda: delete_message(self._connection, *origin))

    async def _delete(self, lease: Lease, name: str, what: str, delete: Callable[[], Awaitable[object]]) -> None:
        """Delete a remnant of a finished message. It is tried for as long as the lease held, since the leader of its
        stream may be away. An error is only logged: the message is settled, which counts."""
        try:
            while True:
                try:
                    await delete()
                    return
                except ServerUnavailableError:
                    if lease.remaining <= 0:
                        raise
                await self._connection.wait_connected(max(0, lease.remaining))
                await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:
            sequence = lease.delivery.sequence
            logger.warning("%s (message %d) is settled, but its %s was not deleted: %s", name, sequence, what, error)


def _log_failure(level: int, failure: Failure | None, text: str, *args: object, lease: Lease | None = None) -> None:
    """Log one line with the traceback of a failure, which is a text: the exception itself is gone by now."""
    if logger.isEnabledFor(level):
        path, line, function, _ = logger.findCaller(stacklevel=2)
        record = logger.makeRecord(
            logger.name, level, path, line, text, args, None, function, lease.timing if lease else None
        )
        record.exc_text = failure.traceback or None if failure is not None else None
        logger.handle(record)
