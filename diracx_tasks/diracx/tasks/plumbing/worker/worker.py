"""A worker: one process that executes tasks of one size from three queues, the most urgent queue first.

Life of a worker:

1. Start: read the settings of the queues, once somebody answers; start the heartbeats, the lock renewal and the
   configuration follower.
2. Run: take messages (`Intake`) and process them (`InFlight`) until `stop`, or in a burst until nothing is left.
3. Stop: take nothing more, let running tasks end within the grace period, cancel the rest and give it back uncounted.
   Cancelled tasks get 7 s to clean up, and 2 s more go into writing down what was interrupted. What still runs then is
   given back as well: the process must end soon after.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Final

from diracx.tasks.plumbing.background import in_background
from diracx.tasks.plumbing.cancellations.follower import CancellationFollower, StandingNote
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.exceptions import BackgroundEndedError, ServerError, ServerUnavailableError
from diracx.tasks.plumbing.execution.executor import Executor, Invoke
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.groups.completions import GroupCompletions
from diracx.tasks.plumbing.groups.enqueuer import GroupEnqueuer
from diracx.tasks.plumbing.groups.outcomes import stored_outcomes
from diracx.tasks.plumbing.groups.store import JetStreamGroupStore
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.injection.outages import Outages
from diracx.tasks.plumbing.jetstream.assets import Asset, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.handover import Handover
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.mesh_watch import MeshWatch
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.results.store import ResultStore
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.process_id import process_id
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.holds import Holds
from diracx.tasks.plumbing.worker.in_flight import InFlight
from diracx.tasks.plumbing.worker.intake import RETRY_SECONDS, Intake
from diracx.tasks.plumbing.worker.isolation import IsolationGate
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.plumbing.worker.limits import ConfiguredLimits
from diracx.tasks.plumbing.worker.loop_watch import LoopWatch
from diracx.tasks.plumbing.worker.processing import OnOutcome, Processor
from diracx.tasks.plumbing.worker.relief import Relief
from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.settlement.endings import Endings
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement
from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.plumbing.worker.snapshot import Counters, InFlightQuery, InFlightTask, WorkerSnapshot

logger = logging.getLogger("diracx.tasks.worker")

# Until `run` has read the real one from the server, before the first message.
DEFAULT_ACK_WAIT: Final = timedelta(seconds=30)
SETTLE_SECONDS: Final = 2.0
"""The time to write down, at the end, which executions were interrupted."""
FIRST_READ_SECONDS: Final = 30.0
"""How long the start waits for an answer about the configuration, and about the cancellations."""


def _needed(namespace: Namespace) -> list[Asset]:
    streams = (namespace.tasks_stream, namespace.later_stream, namespace.dead_letters_stream)
    buckets = (namespace.locks_bucket, namespace.attempts_bucket, namespace.results_bucket, namespace.config_bucket)
    return [asset for asset in assets(namespace) if asset.is_one_of(*streams, *buckets)]


class Worker:
    """Executes tasks of one size until `stop`.

    Args:
        connection: Stays open for as long as `run` runs.
        registry: The tasks that this worker knows.
        injector: Prepares the dependencies of `execute()`.
        invoke: Runs a task elsewhere, e.g. on a thread of its own; None: on this loop.
        on_outcome: See `processing.OnOutcome`.
        last_resort: Ends the process when the code of a task keeps a thread; None: nothing does.
        outages: The tasks that are not served since a resource is down; None: none is.
        counters: Count its deliveries; None: new ones.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        registry: TaskRegistry,
        injector: Injector,
        settings: WorkerSettings,
        *,
        invoke: Invoke | None = None,
        on_outcome: OnOutcome | None = None,
        last_resort: LastResort | None = None,
        outages: Outages | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.id, self.settings, self.counters = process_id(settings.size), settings, counters or Counters()
        self._broken: BackgroundEndedError | None = None
        self._last_resort = last_resort
        self._connection, self._registry, self._stream = connection, registry, namespace.tasks_stream
        self._attempts = AttemptStore(Bucket(connection, namespace.attempts_bucket))
        self._locks = LockKeeper(Bucket(connection, namespace.locks_bucket), on_end=self._background_ended)
        self._configuration = ConfigurationFollower(connection, namespace)
        self._mesh, self._handover = MeshWatch(connection, _needed(namespace), logger), Handover(connection, namespace)
        self._holds, self._outages = Holds(self._configuration, registry), outages or Outages()
        groups = JetStreamGroupStore(connection, namespace)
        self._executor = self._executing(injector, invoke, groups)
        self._cancellations = CancellationFollower(connection, namespace)
        self._settlement = self._settling(namespace, groups)
        self._leases = LeaseKeeper(DEFAULT_ACK_WAIT, last_resort=last_resort)
        self._slots = Slots(settings.max_concurrent_tasks)
        timeout, window = settings.isolation_timeout, settings.isolation_window
        self._gate = gate = IsolationGate(lambda: len(self._leases), timeout, window)
        self._in_flight = InFlight(self._leases, self._slots, gate, self._processor(namespace, registry, on_outcome))
        self._settlement.on_writing = self._in_flight.free_slot
        if last_resort is not None:
            last_resort.on_retire, last_resort.give_back = self.stop, self.abandon
        self._relief = relief = Relief(connection, namespace, self._leases, self._locks, last_resort)
        self._loop_watch = LoopWatch(relief)
        self._intake = Intake(
            connection, namespace, settings, self._attempts, self._leases, self._slots, gate, self._in_flight
        )

    def _executing(self, injector: Injector, invoke: Invoke | None, groups: JetStreamGroupStore) -> Executor:
        return Executor(
            injector,
            self._locks,
            self.id,
            invoke=invoke,
            limits=ConfiguredLimits(self._configuration),
            clock=self._connection.clock,
            outcomes_of=partial(stored_outcomes, store=groups),
        )

    def _settling(self, namespace: Namespace, groups: JetStreamGroupStore) -> Settlement:
        connection = self._connection
        results, completions = ResultStore(connection, namespace, self.id), GroupCompletions(groups, connection.clock)
        endings = Endings(self._registry, results, completions, self.id, connection.clock)
        dead_letters = DeadLetterStore(connection, namespace)
        return Settlement(connection, self._attempts, dead_letters, endings, self.settings.lock_retry_delay)

    def _processor(self, namespace: Namespace, registry: TaskRegistry, on_outcome: OnOutcome | None) -> Processor:
        return Processor(
            namespace,
            self.settings,
            registry,
            self._attempts,
            self._executor,
            self._settlement,
            self._gate,
            self._holds,
            self._outages,
            self._cancellations,
            GroupEnqueuer(self._connection, namespace),
            self._connection.clock,
            self.counters,
            on_outcome,
        )

    @property
    def processed(self) -> int:
        """Deliveries carried to an end."""
        return self._in_flight.processed

    @property
    def configuration_revision(self) -> int:
        """The revision of the configuration that this worker follows; 0: none was set."""
        return self._configuration.revision

    @property
    def snapshot(self) -> WorkerSnapshot:
        """The state of the worker now, for its operators."""
        return WorkerSnapshot(
            slots=self._slots.total,
            busy=self._slots.busy,
            busy_seconds=self._slots.busy_seconds,
            changed_at=max(self._slots.changed_at, self._gate.changed_at),
            in_flight=Counter(lease.delivery.subject for lease in self._leases.all),
            processed=self._in_flight.processed,
            pulls=self._intake.pulls,
            last_pull=self._intake.last_pull,
            last_word=self._intake.last_word,
            stopping=self._intake.is_stopping,
            left_behind=self._executor.left_behind,
            isolated=self._gate.isolated_task,
            held=self._holds.tasks,
            not_served=self._outages.not_served,
            clock_ahead=self._connection.clock.ahead,
        )

    def tasks_in_flight(self, query: InFlightQuery) -> list[InFlightTask]:
        """The tasks in flight now that fit, for its operators. For any thread."""
        return self._in_flight.described(query, self._connection.clock.now(), self._loop_watch.held_up_by)

    def answer_while_held_up(self, answering: Callable[[Connection], AbstractAsyncContextManager[None]]) -> None:
        """Enter `answering` with a connection on another thread, while the event loop is held up."""
        self._relief.answering = answering

    def standing(self, kind: Kind, key: str) -> StandingNote | None:
        """The cancellation with this key, and what this worker has done about it; None: it knows none. For any
        thread."""
        return self._cancellations.standing(kind, key)

    @property
    def why_not_served(self) -> str | None:
        """Why tasks of this size cannot be had, or not be carried to their end; None: as far as is known, they can."""
        if (reason := self._intake.why_not_pulling) is not None:
            return f"cannot pull: {reason}"
        if self._mesh.problem is not None:
            return self._mesh.problem
        if unanswered := self._leases.unanswered:
            return f"the heartbeats of {unanswered} messages in flight get no answer"
        return self._why_no_task or self._outages.why_idle

    @property
    def _why_no_task(self) -> str | None:
        """Why no task can be served. A size that no task has is no reason: deployments run a worker of each size."""
        size, look = self.settings.size, "see the log, and `diracx-task-run tasks`"
        if not len(self._registry):
            return f"no task is installed, or none can be served; {look}"
        if not self._has_tasks and size in self._registry.withdrawn_sizes:
            return f"no {size} task can be served; {look}"
        return None

    @property
    def _has_tasks(self) -> bool:
        return any(task.task_class.size == self.settings.size for task in self._registry)

    @property
    def why_it_ends(self) -> str | None:
        """Why the worker ends by itself: the code of a task keeps a thread, or a part of the worker ended. None: it
        does not."""
        if self._last_resort is not None and self._last_resort.reason is not None:
            return self._last_resort.reason
        return None if self._broken is None else str(self._broken)

    def stop(self) -> None:
        """Take nothing more. `run` returns once the tasks in flight have ended, 9 s after the grace period at the
        latest."""
        self._intake.stop()

    def stop_now(self) -> None:
        """Stop, and end the grace period at once."""
        self.stop()
        self._in_flight.stop("the worker stops")

    async def abandon(self) -> None:
        """Give back every message whose lease holds, uncounted: the process is about to end in the middle of them.

        A message that cannot be given back is logged, and redelivered when its lease lapses.
        """
        self.stop()
        try:
            await self._in_flight.abandon(self._attempts)
        finally:
            self._settlement.naks.close()
        await self._connection.client.flush()

    def abandon_from_thread(self) -> None:
        """As `abandon`, on another thread than the event loop, which does not get there: the process is ended by
        force."""
        asyncio.run(self._relief.give_back())

    async def run(self) -> None:
        """Work until stopped, or in a burst until nothing is left that is due.

        Raises:
            ServerError: The queues cannot be used, e.g. because they are missing and may not be created.
        """
        self._leases.owner = asyncio.current_task()
        if not self._has_tasks:
            idle = self._why_no_task or f"no {self.settings.size} task is installed"
            logger.warning("this worker has nothing to do: %s", idle)
        if (ack_wait := await self._intake.await_queues()) is None:
            return
        self._leases.set_ack_wait(ack_wait)
        without = "no task is held or limited by it until it can be read"
        await self._await_first(self._configuration.refresh, "the configuration, with its holds and limits", without)
        without = "tasks that were cancelled may begin until they can be read"
        self._cancellations.on_new(partial(self._in_flight.cancel, self._cancellations.reason))
        await self._await_first(self._cancellations.refresh, "the cancellations", without)
        async with self._locks, self._watching():
            try:
                await self._intake.run()
            finally:
                await self._in_flight.wind_down(self.settings.grace, self._attempts)
                self._settlement.naks.close()
                await self._attempts.settle_debts(SETTLE_SECONDS)

    async def _await_first(self, refresh: Callable[[], Awaitable[None]], what: str, without: str) -> None:
        """Read what holds, limits or cancels tasks before the first one. Wait if no answer comes, but not for ever."""
        waits, short = f"waits up to {FIRST_READ_SECONDS:g} s for {what}", what.partition(",")[0]
        waiting = LastingFailure(logger, waits, f"{short} can be read")
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READ_SECONDS):
                while not self._intake.is_stopping:
                    try:
                        await refresh()
                    except ServerUnavailableError as error:
                        waiting.failed(str(error))
                    except ServerError:
                        return  # an answer: there is none, or this user may not read it; the follower says so
                    else:
                        waiting.succeeded()
                        return
                    await self._intake.pause(RETRY_SECONDS)
                return
        logger.warning("begins without %s: %s", short, without)

    def _background_ended(self, error: BackgroundEndedError) -> None:
        """Give back what is in flight, and end: a worker must not run on without heartbeats."""
        self._broken = error
        self.stop_now()

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        resend = self._settlement.ack_replay.resend
        async with in_background(
            self._background_ended,
            leases=self._leases.run(),
            orphaned_attempt_records=self._attempts.run(),
            configuration=self._configuration.run(),
            cancellations=self._cancellations.run(),
            mesh=self._mesh.run(),
            handover=self._handover.run(),
            answers=self._settlement.ack_replay.run(self._stream),
        ):
            self._connection.on_reconnect(resend)
            try:
                with self._loop_watch.watching():
                    yield
            finally:
                self._connection.remove_on_reconnect(resend)
