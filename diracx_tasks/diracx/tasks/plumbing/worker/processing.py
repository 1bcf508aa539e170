"""One delivery, from the message to its settlement. `Processor.process` is the whole way, in six verbs:

    admit -> load attempts -> screen -> run -> settle -> report

    admit           was the message interrupted before it began, or finished here before?
    load attempts   the attempt record: what has been tried of it. From here on, log lines name the task
    screen          may the task execute now, here? The answer is a `Job`, or the outcome when it may not
    run             execute the job (execution/executor.py), isolated where it must be; gives the outcome. A message of
                    a group is no task: its children are stored instead (groups/enqueuer.py)
    settle          the outcome becomes writes, then an ack, nak or term (settlement/settlement.py). A plain success is
                    acked in one call
    report          `on_outcome` hears of it

Whatever fails before the answer was sent leaves the message unsettled. The server redelivers it when the lease lapses,
and the attempt record shows how far it got. A counted execution without an outcome in the record is written down as
interrupted, since its process lives. Whatever fails after it, a deletion or `on_outcome`, is only logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias, TypeGuard

from diracx.tasks.plumbing.background import carried_through
from diracx.tasks.plumbing.cancellations.follower import CancellationFollower
from diracx.tasks.plumbing.clock import ServerClock
from diracx.tasks.plumbing.exceptions import (
    MalformedTaskError,
    SendTaskError,
    ServerError,
    TaskDefinitionError,
    UnknownTaskError,
    shown,
)
from diracx.tasks.plumbing.execution.executor import Executor
from diracx.tasks.plumbing.execution.job import (
    Cancelled,
    Dead,
    Discarded,
    Interrupted,
    Job,
    Outcome,
    Succeeded,
    WrongQueue,
)
from diracx.tasks.plumbing.groups.enqueuer import STORE_CHILDREN, GroupEnqueuer
from diracx.tasks.plumbing.groups.records import split_place
from diracx.tasks.plumbing.groups.store import UnreadableRecordError
from diracx.tasks.plumbing.injection.outages import Outages
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.observability import log_context, telemetry
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.attempt_record import AttemptRecord
from diracx.tasks.plumbing.wire.envelope import FORMAT_VERSION, TASK_ID, TASK_NAME, TASK_PART, Envelope
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.times import readable_time
from diracx.tasks.plumbing.worker.attempts import Attempts, AttemptStore, StaleAttemptError
from diracx.tasks.plumbing.worker.holds import Holds
from diracx.tasks.plumbing.worker.isolation import (
    ISOLATE_AFTER_CRASHES,
    POISON_AFTER_CRASHES,
    IsolationGate,
    IsolationTimeoutError,
)
from diracx.tasks.plumbing.worker.leases import Lease, LeaseLapsedError
from diracx.tasks.plumbing.worker.observation import log_fields, observed
from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement
from diracx.tasks.plumbing.worker.snapshot import Counters

logger = logging.getLogger("diracx.tasks.worker")

ISOLATION_RETRY_DELAY: Final = timedelta(seconds=5)

OnOutcome: TypeAlias = Callable[[str, str, Outcome], object]
"""Called with the name of a task, its id, and the outcome of a delivery that was screened and settled.

What it raises is logged."""


@dataclass(frozen=True, slots=True)
class NotKnownHere:
    """This worker does not know the task, or not in this form. A newer worker may."""

    reason: str


@dataclass(frozen=True, slots=True)
class StoreChildren:
    """The message is no task: it has a worker store the children of one part of a group."""

    group: str
    part: int


Screened: TypeAlias = Job | Outcome | NotKnownHere | StoreChildren


def _expired(at: datetime, record: AttemptRecord, dlq_eligible: bool) -> Dead | Discarded:
    reason, failure = f"expired at {readable_time(at)} before it was done", record.last_failure
    if record.failed:
        last = "" if failure is None else f", the last with {failure.type}: {failure.message}"
        reason = f"{reason}; it failed {record.failed} times{last}"
        if dlq_eligible:
            return Dead(reason)
    return Discarded(reason, failure, expired=True)


def _part_of(delivery: Delivery) -> StoreChildren:
    try:
        return StoreChildren(*split_place((delivery.headers or {}).get(TASK_PART, "")))
    except ValueError as error:
        raise MalformedTaskError(f"{TASK_PART}: {error}") from None


class Processor:
    """Processes the deliveries of one worker.

    Args:
        on_outcome: See `OnOutcome`.
        holds: The tasks that the configuration holds.
        outages: The tasks that are given back since a resource is down.
        cancellations: The tasks that an operator has cancelled.
        groups: Stores the children of groups.
        clock: Decides what has expired, and which retry is due.
        counters: Counts each delivery.
    """

    def __init__(
        self,
        namespace: Namespace,
        settings: WorkerSettings,
        registry: TaskRegistry,
        attempts: AttemptStore,
        executor: Executor,
        settlement: Settlement,
        gate: IsolationGate,
        holds: Holds,
        outages: Outages,
        cancellations: CancellationFollower,
        groups: GroupEnqueuer,
        clock: ServerClock,
        counters: Counters,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self._namespace = namespace
        self._settings = settings
        self._registry = registry
        self._attempts = attempts
        self._executor = executor
        self._settlement = settlement
        self._gate = gate
        self._holds = holds
        self._outages = outages
        self._cancellations = cancellations
        self._groups = groups
        self._clock = clock
        self._counters = counters
        self._on_outcome = on_outcome
        self._telemetry = telemetry.current()

    async def process(self, lease: Lease) -> None:
        """Carry one delivery to its end. An error is logged, not raised: the message stays unsettled.

        Raises:
            asyncio.CancelledError: The event loop ended before the task executed.
        """
        delivery = lease.delivery
        try:
            if not self._admit(lease):
                await self._turn_away(lease, lease.name)
                return
            attempts = lease.attempts = self._attempts.untried(delivery) or await self._attempts.read(delivery)
            log_context.current_delivery.set(partial(log_fields, delivery, attempts.record.failed + 1))
            screened = self._screen(delivery, attempts)
            self._counters.begin(lease, self._clock, screened.envelope.due if type(screened) is Job else None)
            if self._is_plain(screened, delivery, attempts):
                lease.execution.only_acked = True
                outcome = await self._executor.execute(screened, lease.execution)
                acked = type(outcome) is Succeeded and self._settlement.ack_at_once(lease)
            else:
                outcome, acked = await self._run(lease, attempts, screened), False
            if not acked:
                await self._settle(lease, lease.name, attempts, outcome)
            if self._cancellations.any and isinstance(outcome, Succeeded | Dead | Discarded | Cancelled):
                self._cancellations.count(delivery, cancelled=isinstance(outcome, Cancelled))
            self._counters.record(lease, outcome, self._clock)
            if self._on_outcome is not None:
                self._report(self._on_outcome, delivery, lease.name, outcome)
            return
        except asyncio.CancelledError as error:
            if lease.execution.explain(error) is None or lease.settling:
                raise
            await self._settlement.give_back(lease, lease.name)  # cancelled before the task executed
        except (LeaseLapsedError, StaleAttemptError) as error:
            logger.warning("left %s unsettled: %s", lease.name, error)
        except (SendTaskError, ServerError) as error:
            logger.error("left %s (message %d) unsettled: %s", lease.name, delivery.sequence, error)
        except Exception:
            logger.exception("left %s (message %d) unsettled: an error in the worker", lease.name, delivery.sequence)
        self._attempts.interrupt_later(lease.attempts)

    def _admit(self, lease: Lease) -> bool:
        """Whether the message is to be processed: not cancelled before it began, and not finished here before."""
        return lease.execution.begin(lease.task) and not self._settlement.ack_replay.was_finished(lease)

    async def _turn_away(self, lease: Lease, name: str) -> None:
        if lease.execution.cancellation is not None or lease.withdrawn is not None:
            await self._settlement.give_back(lease, name)
        else:
            await self._settlement.ack_again(lease, name)

    def _screen(self, delivery: Delivery, attempts: Attempts) -> Screened:
        """Decode the message and look up its task.

        Returns:
            The `Job`; or the outcome when it must not execute now; or `NotKnownHere`; or `StoreChildren`.
        """
        record = attempts.record
        if record.exhausted is not None:
            return Discarded(record.exhausted, record.last_failure) if record.dropped else Dead(record.exhausted)
        if self._cancellations.any and (reason := self._cancellations.reason(delivery)) is not None:
            return Cancelled(reason)
        if record.crashes >= POISON_AFTER_CRASHES:
            return Dead(f"poison: {record.crashes} executions began and never ended")
        if record.not_before is not None and (rest := record.not_before - self._clock.now()) > timedelta(0):
            return Interrupted("its retry is not due yet", rest)
        try:
            envelope = Envelope.of_usual_headers(delivery.header_block) or Envelope.from_headers(
                delivery.headers, delivery.sequence
            )
            if envelope.version > FORMAT_VERSION:
                return NotKnownHere(f"message format {envelope.version} is newer than this worker")
            if envelope.name == STORE_CHILDREN:
                return _part_of(delivery)
            registered = self._registry.get(envelope.name)
            if registered.task_class.size != self._settings.size:
                if envelope.moved and delivery.delivered == 1:
                    return Interrupted("it was moved before, and waits here first", self._settings.unknown_delay)
                return WrongQueue(self._namespace.task_subject(*registered.queue))
            task = registered.codec.decode(delivery.body)
        except MalformedTaskError as error:
            return Dead(f"malformed: {error}")
        except (UnknownTaskError, TaskDefinitionError) as error:
            return NotKnownHere(str(error))
        if envelope.expires is not None and envelope.expires <= self._clock.now():
            return _expired(envelope.expires, record, registered.task_class.dlq_eligible)
        if self._outages.any and (refusal := self._outages.refusal(registered.task_class)) is not None:
            return Interrupted.of(refusal)
        job = Job(registered, envelope, task, record.failed, attempts.refusals)
        return (self._holds.active and self._holds.outcome_of(job)) or job

    def _run(self, lease: Lease, attempts: Attempts, screened: Screened) -> Awaitable[Outcome]:
        """Execute the job and give its outcome; telemetry, where it is on, sees each outcome here."""
        work = self._execute(lease, attempts, screened)
        if self._telemetry is None:
            return work
        return observed(self._telemetry, lease.delivery, attempts, work, self._clock)

    def _is_plain(self, screened: Screened, delivery: Delivery, attempts: Attempts) -> TypeGuard[Job]:
        """Whether nothing is to be read, written or told of it beside its ack, if it succeeds: as for most tasks."""
        return (
            type(screened) is Job
            and delivery.delivered == 1
            and not attempts.revision
            and (envelope := screened.envelope).callback is None
            and envelope.group is None
            and envelope.keep_result is None
            and not screened.registered.task_class.result_ttl_seconds
            and delivery.origin is None
            and self._telemetry is None
            and not logger.isEnabledFor(logging.DEBUG)
        )

    async def _execute(self, lease: Lease, attempts: Attempts, screened: Screened) -> Outcome:
        if not isinstance(screened, Job):
            if isinstance(screened, NotKnownHere):
                return await self._postpone_unknown(attempts, screened.reason)
            if isinstance(screened, StoreChildren):
                return await self._store_children(screened)
            return screened
        group = screened.envelope.callback
        if group is not None and await self._runs_already(group, lease.delivery):
            return Discarded("it runs already: the server, killed meanwhile, let this callback go twice")
        logger.debug("begins: %s (message %d)", screened.envelope.name, lease.delivery.sequence)
        on_start = None
        if lease.delivery.delivered > 1 or attempts.revision:
            on_start = partial(self._attempts.begin, attempts)
        try:
            if attempts.record.crashes < ISOLATE_AFTER_CRASHES:
                return await self._executor.execute(screened, lease.execution, on_start)
            async with AsyncExitStack() as isolation:
                on_start = partial(self._begin_isolated, isolation, screened, attempts)
                return await self._executor.execute(screened, lease.execution, on_start)
        except IsolationTimeoutError as error:
            return Interrupted(f"it may be killing its workers, and was not isolated: {error}", ISOLATION_RETRY_DELAY)

    async def _settle(self, lease: Lease, name: str, attempts: Attempts, outcome: Outcome) -> None:
        if type(outcome) is Succeeded:  # which awaits nothing that could be broken off
            await self._settlement.settle(lease, name, attempts, outcome)
            return
        # The code of the task may cancel the asyncio task in which it ran, at any later time.
        try:
            await carried_through(self._settlement.settle(lease, name, attempts, outcome))
        except LeaseLapsedError:
            await carried_through(self._settlement.record_late(name, attempts, outcome))
            raise

    async def _begin_isolated(self, isolation: AsyncExitStack, job: Job, attempts: Attempts) -> None:
        """Isolate a job that holds its locks: the worker is not held up for a task that finds its lock busy."""
        task = f"{job.envelope.name} {shown(job.envelope.id)}"
        reason = f"{attempts.record.crashes} executions of it began and never ended"
        await isolation.enter_async_context(self._gate.isolated(task, reason))
        await self._attempts.begin(attempts)

    async def _postpone_unknown(self, attempts: Attempts, reason: str) -> Outcome:
        tries = attempts.record.unknown + 1
        if tries >= self._settings.unknown_tries:
            return Dead(reason)
        await self._attempts.record_unknown(attempts)
        return Interrupted(f"try {tries} of {self._settings.unknown_tries}: {reason}", self._settings.unknown_delay)

    async def _runs_already(self, group: str, delivery: Delivery) -> bool:
        """Whether a callback was let go twice. A replay or a copy of it by hand did not fall due, and runs."""
        return delivery.origin is not None and await self._groups.is_second_firing(group, delivery.origin[1])

    async def _store_children(self, part: StoreChildren) -> Outcome:
        try:
            there = await self._groups.store_part(part.group, part.part)
        except UnreadableRecordError as error:
            return Dead(f"malformed: {error}")
        return Succeeded() if there else Discarded("its group has expired")

    def _report(self, on_outcome: OnOutcome, delivery: Delivery, name: str, outcome: Outcome) -> None:
        try:
            headers = delivery.headers or {}
            on_outcome(headers.get(TASK_NAME, name), headers.get(TASK_ID) or str(delivery.sequence), outcome)
        except Exception:
            logger.exception("%s (message %d) is settled, but on_outcome failed", name, delivery.sequence)
