"""From an outcome to what the server is told. The only place that acks, naks and terms a task.

Order of writes: the attempt record, then the dead letter, then the message itself, each awaited before the next. If
one fails, the message is not settled: its lease runs out and it is delivered again, where the record shows how far it
got. So each step must bear being done twice:

- record written, killed before the nak: `not_before` and the count stand, the retry comes no earlier and no oftener;
- exhausted, killed before the dead letter: never executed again, the dead letter is stored by whoever gets it next;
- dead letter stored, killed before the term: storing it again changes nothing, then the term;
- acked, killed before the record is removed: see `attempts`;
- told, and the server killed before it has kept that: told again after the reconnect, see `recent_answers`;
- retry or lock wait decided, killed before its nak has left: see `delayed_naks`.

The lease is looked at before the first write and again right before the last word.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.execution.job import (
    Dead,
    Discarded,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore
from diracx.tasks.plumbing.worker.leases import Lease
from diracx.tasks.plumbing.worker.settlement.ack_replay import RecentAnswers
from diracx.tasks.plumbing.worker.settlement.lock_backoff import Crowds
from diracx.tasks.plumbing.worker.settlement.nak_batcher import DelayedNaks
from diracx.tasks.plumbing.worker.settlement.requeue import forget_origin, move

logger = logging.getLogger("diracx.tasks.worker")


class Settlement:
    """Settles messages of one worker.

    Args:
        busy_delay: How long a task whose lock is held waits, give or take a quarter; in a crowd longer, see `crowds`.
    """

    def __init__(
        self,
        connection: Connection,
        attempts: AttemptStore,
        dead_letters: DeadLetterStore,
        busy_delay: timedelta = timedelta(seconds=5),
    ) -> None:
        self._connection = connection
        self._attempts = attempts
        self._dead_letters = dead_letters
        self._crowds = Crowds(busy_delay)
        self._recent = RecentAnswers(connection)
        self._naks = DelayedNaks()

    async def settle(self, lease: Lease, name: str, attempts: Attempts, outcome: Outcome) -> None:
        """Tell the server what became of a message.

        Args:
            name: What the message is, for the log.

        Raises:
            LeaseLapsedError: The message may be in other hands; nothing was told.
            StaleAttemptError: It is in other hands.
            ServerUnavailableError: No connection; may be tried again while the lease holds.
            SendTaskError: The dead letter was refused.
        """
        lease.ensure()
        match outcome:
            case Succeeded():
                await self._done(lease, attempts)
                logger.debug("done: %s (message %d)", name, lease.delivery.sequence)
            case Retry():
                await self._retry(lease, name, attempts, outcome)
            case LockBusy():
                await self._wait_for_lock(lease, name, outcome)
            case Dead():
                await self._bury(lease, name, attempts, outcome)
            case Discarded():
                await self._done(lease, attempts)
                logger.warning("dropped %s (message %d): %s", name, lease.delivery.sequence, outcome.reason)
            case WrongQueue():
                await move(self._connection, lease.delivery, outcome.subject)
                lease.ensure()
                await self._done(lease, attempts)
                logger.info("moved %s (message %d) to %s", name, lease.delivery.sequence, outcome.subject)
            case Interrupted():
                await self._attempts.interrupt(attempts)
                lease.ensure()
                await self._naks.send(lease, outcome.delay)
                logger.info("gave back %s (message %d): %s", name, lease.delivery.sequence, outcome.reason)
                if outcome.delay and attempts.record.not_before is not None:
                    self._recent.naked(lease, attempts.record.not_before)

    def was_settled(self, lease: Lease) -> bool:
        """Whether the message was done or dead here before, and was handed out again by a server that had forgotten."""
        return self._recent.ended(lease)

    async def settle_again(self, lease: Lease) -> None:
        """Settle a message that `was_settled`.

        Raises:
            ServerUnavailableError: No connection.
        """
        await lease.delivery.ack()

    def repeat_recent(self) -> None:
        """Tell the server again what it was told last: call it after each reconnect."""
        self._recent.repeat()

    async def close(self) -> None:
        """Tell the server what it was not told yet: the worker ends, and nothing is in hand."""
        await self._naks.close()

    async def _done(self, lease: Lease, attempts: Attempts) -> None:
        await lease.delivery.ack()
        self._recent.acked(lease)
        await self._attempts.forget(attempts)
        if lease.delivery.origin is not None:
            await self._forget_origin(lease)

    async def _forget_origin(self, lease: Lease) -> None:
        try:
            await forget_origin(self._connection, lease.delivery)
        except ServerError as error:  # the task is settled, which is what counts
            logger.warning("message %d is settled, but not forgotten: %s", lease.delivery.sequence, error)

    async def _retry(self, lease: Lease, name: str, attempts: Attempts, outcome: Retry) -> None:
        if attempts.record.not_before != outcome.at:
            await self._attempts.fail(attempts, outcome.failure, outcome.at)
        delay = max(outcome.at - datetime.now(UTC), timedelta(0))
        lease.ensure()
        await self._naks.send(lease, delay)
        self._recent.naked(lease, outcome.at)
        logger.info(
            "will retry %s (message %d) in %.1f s: %s: %s",
            name,
            lease.delivery.sequence,
            delay.total_seconds(),
            outcome.failure.type,
            outcome.failure.message,
        )

    async def _wait_for_lock(self, lease: Lease, name: str, outcome: LockBusy) -> None:
        delay = self._crowds.delay(outcome.error)
        await self._naks.send(lease, delay)
        level = logging.INFO if self._crowds.worth_a_line() else logging.DEBUG
        logger.log(level, "%s waits %.1f s: %s", name, delay.total_seconds(), outcome.error)

    async def _bury(self, lease: Lease, name: str, attempts: Attempts, outcome: Dead) -> None:
        await self._attempts.exhaust(attempts, outcome.failure, outcome.reason)
        record = attempts.record
        executions = record.failed + record.crashes
        await self._dead_letters.store(lease.delivery, outcome.reason, executions, record.failures)
        lease.ensure()
        await lease.delivery.term(outcome.reason)
        self._recent.termed(lease, outcome.reason)
        await self._attempts.forget(attempts)
        if lease.delivery.origin is not None:
            await self._forget_origin(lease)
        logger.error("dead: %s (message %d): %s", name, lease.delivery.sequence, outcome.reason)
