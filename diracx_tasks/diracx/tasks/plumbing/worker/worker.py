"""A worker: one process, one size, three queues under strict priority.

Life of a worker: load the records of what has been tried; then, until it is told to stop: wait for room, probe the
queues, wait for arrivals where there was nothing. Told to stop, it asks for nothing more, gives running tasks a grace
period, cancels the rest and gives it back, and ends when nothing is in hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.enums import Priority
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.execution.executor import Executor, Invoke
from diracx.tasks.plumbing.injection.injector import Injector
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import in_words, paused_until
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.key_value import Bucket
from diracx.tasks.plumbing.jetstream.pull import StrictPriorityPull
from diracx.tasks.plumbing.locks.keeper import LockKeeper
from diracx.tasks.plumbing.overrides.follower import ConfigurationFollower
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.in_flight import Hand
from diracx.tasks.plumbing.worker.isolation import Solitude
from diracx.tasks.plumbing.worker.leases import LeaseKeeper
from diracx.tasks.plumbing.worker.limits import ConfiguredLimits
from diracx.tasks.plumbing.worker.loop_lag import LoopLag
from diracx.tasks.plumbing.worker.processing import OnOutcome, Processor
from diracx.tasks.plumbing.worker.settings import WorkerSettings, worker_id
from diracx.tasks.plumbing.worker.settlement.settlement import Settlement
from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.plumbing.worker.snapshot import WorkerFacts

logger = logging.getLogger("diracx.tasks.worker")

_BACKOFF: Final = 1.0
# Until the server was asked for its own, before the first message.
_DEFAULT_ACK_WAIT: Final = timedelta(seconds=30)


class Worker:
    """Runs tasks of one size until `stop`.

    Args:
        connection: Stays open for as long as `run` runs.
        registry: The tasks that it knows.
        injector: Prepares what they need.
        invoke: Where they execute; None is on this loop.
        on_outcome: Told what became of each delivery.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        registry: TaskRegistry,
        injector: Injector,
        settings: WorkerSettings,
        invoke: Invoke | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self.id = worker_id(settings.size)
        self.settings = settings
        self._connection = connection
        self._namespace = namespace
        self._slots = Slots(settings.max_concurrent_tasks)
        self._consumers = [namespace.consumer(priority, settings.size) for priority in Priority]
        self._pull = StrictPriorityPull(connection, namespace.tasks_stream, self._consumers, self._receive)
        self._attempts = AttemptStore(Bucket(connection, namespace.attempts_bucket))
        self._locks = LockKeeper(Bucket(connection, namespace.locks_bucket))
        self._leases = LeaseKeeper(_DEFAULT_ACK_WAIT)
        self._solitude = Solitude(lambda: len(self._leases), self._pull.wake, settings.solitude_patience)
        letters = DeadLetterStore(connection, namespace)
        self._settlement = Settlement(connection, self._attempts, letters, settings.busy_delay)
        self._configuration = ConfigurationFollower(connection, namespace)
        limits = ConfiguredLimits(self._configuration)
        executor = Executor(injector, self._locks, self.id, invoke=invoke, limits=limits)
        processor = Processor(
            connection,
            namespace,
            settings,
            registry,
            self._attempts,
            executor,
            self._settlement,
            self._solitude,
            on_outcome,
        )
        self._stopping = asyncio.Event()
        self._hand = Hand(self._leases, self._slots, self._solitude, processor, self._stopping.is_set)
        self._loaded = -1

    @property
    def processed(self) -> int:
        """Deliveries carried to an end."""
        return self._hand.processed

    @property
    def configuration_revision(self) -> int:
        """Of the configuration that this worker has seen; 0: none was set."""
        return self._configuration.revision

    @property
    def facts(self) -> WorkerFacts:
        """What it does at the moment."""
        return WorkerFacts.of(
            self._slots,
            self._leases,
            processed=self.processed,
            asks=not (self._stopping.is_set() or self._solitude.wanted) and self._slots.free > 0,
            stopping=self._stopping.is_set(),
            last_pull=self._pull.last_answer,
        )

    def stop(self) -> None:
        """Ask for nothing more; `run` returns once what is in hand has ended or the grace period is over."""
        self._stopping.set()
        self._solitude.wake()
        self._slots.wake()
        self._pull.wake("stopping")

    def stop_now(self) -> None:
        """End the grace period at once."""
        self.stop()
        self._hand.interrupt("the worker stops")

    async def abandon(self) -> None:
        """Give back, uncounted, all that is in hand and still ours: the process is about to end without it."""
        await self._hand.abandon(self._attempts)
        await self._settlement.close()
        await self._connection.client.flush()

    async def run(self) -> None:
        """Work until stopped, or in a burst until nothing is left.

        Raises:
            ServerError: The queues cannot be used, e.g. since they are missing and may not be created.
        """
        self._leases.adopt(await self._look_at_queues())
        async with self._locks, self._watching():
            await self._pull.start()
            try:
                await self._intake()
            finally:
                await self._pull.stop()
                await self._hand.wind_down(self.settings.grace)
                await self._settlement.close()

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        watchers = [
            asyncio.create_task(self._leases.run(), name="leases"),
            asyncio.create_task(self._attempts.run(), name="outlived records"),
            asyncio.create_task(self._configuration.run(), name="configuration"),
        ]
        self._connection.on_reconnect(self._settlement.repeat_recent)
        try:
            with LoopLag(self._hand.executed_by).watching():
                yield
        finally:
            self._connection.remove_on_reconnect(self._settlement.repeat_recent)
            for watcher in watchers:
                watcher.cancel()
            await asyncio.wait(watchers)
            for watcher in watchers:
                if not watcher.cancelled() and (error := watcher.exception()) is not None:
                    raise error

    async def _look_at_queues(self) -> timedelta:
        """Tell which of the three are paused, as a worker without work is a riddle otherwise.

        Returns:
            Their shortest `ack_wait`, as the server has it: an operator may have changed it.
        """
        infos = [
            await self._connection.api(f"CONSUMER.INFO.{self._namespace.tasks_stream}.{consumer}")
            for consumer in self._consumers
        ]
        for info in infos:
            if (until := paused_until(info)) is not None:
                logger.info("the queue %s is paused until %s", info["name"], in_words(until))
        return timedelta(seconds=min(info["config"]["ack_wait"] for info in infos) / NANOSECONDS)

    def _receive(self, delivery: Delivery) -> None:
        self._hand.receive(delivery)

    async def _intake(self) -> None:
        while not self._stopping.is_set():
            try:
                if not await self._step():
                    return
            except ServerError as error:
                logger.warning("cannot pull: %s", error)
                await self._back_off()

    async def _step(self) -> bool:
        """One turn of the intake; False when a burst is over."""
        await self._solitude.unwanted()
        if self._stopping.is_set():
            return False
        await self._slots.room()
        if self._stopping.is_set():
            return False
        # Last, with nothing awaited between it and the pull: the waits above may have outlasted a connection.
        await self._load_attempts()
        idle = not len(self._hand)
        count, problem = await self._pull.probe(self._slots.free)
        if problem is None and not count:
            if self.settings.burst:
                # What ended while we looked may have submitted behind our back.
                return not idle and await self._more_may_come()
            if self._slots.free and not self._stopping.is_set():
                problem = await self._pull.wait(self._slots.free)
        if problem and not self._stopping.is_set() and problem != "reconnected":
            logger.warning("pulling: the server says %r", problem)
            await self._back_off()
        return True

    async def _load_attempts(self) -> None:
        """Before anything is pulled over a new connection: the server may have forgotten its counts."""
        while (generation := self._connection.generation) != self._loaded:
            info = await self._connection.api(f"STREAM.INFO.{self._namespace.tasks_stream}")
            await self._attempts.load(info["state"]["first_seq"])
            self._loaded = generation

    async def _more_may_come(self) -> bool:
        """In a burst with empty queues: wait for something in hand, which may submit or return; then look again."""
        if not (in_hand := self._hand.running()):
            return True
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*in_hand, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return True

    async def _back_off(self) -> None:
        try:
            async with asyncio.timeout(_BACKOFF):
                await self._stopping.wait()
        except TimeoutError:
            return
