"""One delivery, from the message to its settlement:

    receive -> decode -> look up -> attempts -> locks -> inject -> execute -> outcome -> settle

Locks, injection and execution are the executor's; settling is the settlement's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from diracx.tasks.plumbing.exceptions import (
    MalformedTaskError,
    SendTaskError,
    ServerError,
    TaskDefinitionError,
    UnknownTaskError,
)
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import Job
from diracx.tasks.plumbing.execution.outcomes import Dead, Discarded, Interrupted, Misplaced, Outcome
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.observability import log_context, telemetry
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.envelope import FORMAT_VERSION, TASK_ID, TASK_NAME, Envelope
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore, StaleAttemptError
from diracx.tasks.plumbing.worker.isolation import NotAloneError, Solitude
from diracx.tasks.plumbing.worker.leases import Lease, LeaseLapsedError
from diracx.tasks.plumbing.worker.observation import log_fields, observed
from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement

logger = logging.getLogger("diracx.tasks.worker")

SUSPECT: Final = 2
"""Executions begun without an end after which a task runs alone in its worker."""

QUARANTINE: Final = 5
"""Executions begun without an end after which a task is taken for one that kills its worker."""


_NOT_ALONE_DELAY: Final = timedelta(seconds=5)

OnOutcome: TypeAlias = Callable[[str, str, Outcome], object]
"""Takes the name of a task, its id, and what became of one delivery."""


class Processor:
    """Processes deliveries of one worker.

    Args:
        on_outcome: Told what became of each delivery, once it is settled.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        settings: WorkerSettings,
        registry: TaskRegistry,
        attempts: AttemptStore,
        executor: Executor,
        settlement: Settlement,
        solitude: Solitude,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self._connection = connection
        self._namespace = namespace
        self._settings = settings
        self._registry = registry
        self._attempts = attempts
        self._executor = executor
        self._settlement = settlement
        self._solitude = solitude
        self._on_outcome = on_outcome
        self._telemetry = telemetry.current()

    async def process(self, lease: Lease) -> None:
        """Carry one delivery to its end. Whatever goes wrong here leaves the message unsettled, to be redelivered."""
        delivery = lease.delivery
        name = (delivery.headers or {}).get(TASK_NAME, "a message without a name")
        if not lease.begin():
            return await self._give_back(lease, name)
        try:
            if self._settlement.was_settled(lease):
                logger.info("%s (message %d) was settled before; the server had forgotten", name, delivery.sequence)
                return await self._settlement.settle_again(lease)
            attempts = lease.attempts = self._attempts.untried(delivery) or await self._attempts.read(delivery)
            log_context.current_delivery.set(partial(log_fields, delivery, attempts.record.failed + 1))
            work = self._outcome(lease, attempts)
            watched = work if self._telemetry is None else observed(self._telemetry, delivery, attempts, work)
            outcome = await watched
            lease.settling = True
            await self._settle(lease, name, attempts, outcome)
            if self._on_outcome is not None:
                self._on_outcome(name, (delivery.headers or {}).get(TASK_ID) or str(delivery.sequence), outcome)
        except asyncio.CancelledError:
            if lease.interrupted is None:
                raise
            await self._give_back(lease, name)
        except (LeaseLapsedError, StaleAttemptError) as error:
            logger.warning("left %s unsettled: %s", name, error)
        except (SendTaskError, ServerError) as error:
            logger.error("left %s (message %d) unsettled: %s", name, delivery.sequence, error)
        except Exception:
            logger.exception("left %s (message %d) unsettled by an error of ours", name, delivery.sequence)

    async def _give_back(self, lease: Lease, name: str) -> None:
        """Give back what was interrupted before it began, or in the very moment in which it ended."""
        lease.settling = True
        try:
            lease.ensure()
            await lease.delivery.nak()
        except (LeaseLapsedError, ServerError) as error:
            logger.warning("left %s unsettled: %s", name, error)

    async def _outcome(self, lease: Lease, attempts: Attempts) -> Outcome:
        delivery = lease.delivery
        try:
            try:
                verdict = self._read(delivery, attempts)
            except (UnknownTaskError, TaskDefinitionError) as error:
                return await self._not_known_here(attempts, str(error))
            if not isinstance(verdict, Job):
                return verdict
            on_start = None
            if delivery.delivered > 1 or attempts.revision:
                on_start = partial(self._attempts.begin, attempts)
            if attempts.record.crashes < SUSPECT:
                return await self._executor.execute(verdict, on_start)
            async with self._solitude.alone():
                return await self._executor.execute(verdict, on_start)
        except NotAloneError as error:
            return Interrupted(f"suspected of killing its workers, and not alone: {error}", _NOT_ALONE_DELAY)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if lease.interrupted is None or task is None:
                raise
            task.uncancel()
            return Interrupted(lease.interrupted)

    def _read(self, delivery: Delivery, attempts: Attempts) -> Job | Outcome:
        """Decode and look up; what keeps the task from executing now is an outcome already.

        Raises:
            UnknownTaskError, TaskDefinitionError: It cannot be executed by this worker.
        """
        record = attempts.record
        if record.exhausted is not None:
            return Dead(record.exhausted)
        if record.crashes >= QUARANTINE:
            return Dead(f"quarantined: {record.crashes} executions began and never ended")
        if record.not_before is not None and (rest := record.not_before - datetime.now(UTC)) > timedelta(0):
            return Interrupted("its retry is not due yet", rest)
        try:
            envelope = Envelope.from_headers(delivery.headers, delivery.sequence)
            if envelope.version > FORMAT_VERSION:
                raise TaskDefinitionError(f"message format {envelope.version} is newer than this worker")
            registered = self._registry.get(envelope.name)
            if registered.task_class.size != self._settings.size:
                return Misplaced(self._namespace.task_subject(*registered.queue))
            task = registered.codec.decode(delivery.body)
        except MalformedTaskError as error:
            return Dead(f"malformed: {error}")
        if envelope.expires is not None and delivery.delivered == 1 and envelope.expires <= datetime.now(UTC):
            return Discarded(f"expired at {envelope.expires.isoformat(timespec='seconds')} before it was begun")
        return Job(registered, envelope, task, record.failed)

    async def _not_known_here(self, attempts: Attempts, reason: str) -> Outcome:
        """Give it back, so that a newer worker may find it; the tries stand in the record."""
        tries = attempts.record.unknown + 1
        if tries >= self._settings.unknown_tries:
            return Dead(reason)
        await self._attempts.miss(attempts)
        return Interrupted(f"try {tries} of {self._settings.unknown_tries}: {reason}", self._settings.unknown_delay)

    async def _settle(self, lease: Lease, name: str, attempts: Attempts, outcome: Outcome) -> None:
        """Settle, and while the lease holds try again when the connection comes back: a repeat saved."""
        while True:
            try:
                return await self._settlement.settle(lease, name, attempts, outcome)
            except ServerError as error:
                if self._connection.is_connected or lease.remaining <= 0:
                    raise
                logger.info("%s waits for the server to be settled: %s", name, error)
                if not await self._connection.wait_connected(lease.remaining):
                    raise
