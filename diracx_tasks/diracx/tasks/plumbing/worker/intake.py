"""May this message come in? The pull loop, and the check that each message passes when it arrives.

The loop repeats four steps until it is stopped. `stop` ends the waits of 1, 2 and 4 at once; a request to the server
that is under way ends within 5 s:

1. wait until the isolation gate is open; it is looked at again right before 4, because it may close during 2 and 3;
2. wait until enough slots are free;
3. after a (re)connect, read the `ack_wait` of the queues, which may have changed, and learn which messages have an
   attempt record: the server may have forgotten its counts;
4. pull for the free slots; where the queues are empty, wait for a message to arrive.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.enums import Priority
from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import pause_end_text, paused_until
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.pull import StrictPriorityPull
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.in_flight import InFlight
from diracx.tasks.plumbing.worker.isolation import IsolationGate
from diracx.tasks.plumbing.worker.leases import LeaseKeeper, StillExecutingError
from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.slots import Slots

logger = logging.getLogger("diracx.tasks.worker")

RETRY_SECONDS: Final = 1.0
STILL_EXECUTING_DELAY: Final = timedelta(seconds=5)


class Intake:
    """Takes messages from the three queues of one size, the most urgent queue first."""

    def __init__(
        self,
        connection: Connection,
        namespace: Namespace,
        settings: WorkerSettings,
        attempts: AttemptStore,
        leases: LeaseKeeper,
        slots: Slots,
        gate: IsolationGate,
        in_flight: InFlight,
    ) -> None:
        self._connection = connection
        self._stream = namespace.tasks_stream
        self._consumers = [namespace.consumer(priority, settings.size) for priority in Priority]
        self._pull = StrictPriorityPull(connection, self._stream, self._consumers, self.receive)
        self._burst = settings.burst
        self._attempts = attempts
        self._leases = leases
        self._slots = slots
        self._gate = gate
        self._in_flight = in_flight
        self._stopping = asyncio.Event()
        self._inspected_generation = -1
        self._loaded_generation = -1
        gate.on_close = self._pull.wake

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def pulls(self) -> bool:
        """Whether it asks for messages: not while all slots are in use, the gate is closed, or it stops."""
        return not (self._stopping.is_set() or self._gate.is_closed) and self._slots.free > 0

    @property
    def last_pull(self) -> float | None:
        """When the server last answered a pull, on the clock; None: never."""
        return self._pull.last_answer

    def stop(self) -> None:
        """Pull nothing more, take nothing more, and let `run` return. It may be called at any time, and repeatedly."""
        self._stopping.set()
        self._gate.wake()
        self._slots.wake()
        self._pull.wake("stopping")

    def receive(self, delivery: Delivery) -> None:
        """Take a message that was just read, or give it back."""
        # The lease comes first. A stale message, or one that is in flight here already, must not be given back: the nak
        # would return the delivery that is executed now.
        try:
            lease = self._leases.take(delivery)
        except StillExecutingError as error:
            logger.warning("gave back a message: %s", error)
            self._in_flight.give_back(delivery, STILL_EXECUTING_DELAY)
            return
        if lease is None:
            return
        if self._stopping.is_set() or self._gate.is_closed or not self._slots.take():
            self._leases.drop(lease)
            self._in_flight.give_back(delivery)
            return
        self._in_flight.start(lease)

    async def inspect_queues(self) -> timedelta:
        """Read the three consumers, and log which of them are paused: a worker without work needs an explanation.

        Returns:
            The shortest `ack_wait` of the consumers, as the server has it now: an operator may have changed it.

        Raises:
            ServerError: A queue cannot be used, e.g. because it is missing.
        """
        self._inspected_generation = self._connection.generation
        infos = [await self._connection.api(f"CONSUMER.INFO.{self._stream}.{consumer}") for consumer in self._consumers]
        for info in infos:
            if (until := paused_until(info)) is not None:
                logger.info("the queue %s is paused until %s", info["name"], pause_end_text(until))
        return timedelta(seconds=min(info["config"]["ack_wait"] for info in infos) / NANOSECONDS)

    async def run(self) -> None:
        """Pull until stopped, or in a burst until nothing is left that is due."""
        await self._pull.start()
        try:
            while not self._stopping.is_set():
                try:
                    if not await self._step():
                        return
                except ServerError as error:
                    logger.warning("cannot pull: %s", error)
                    await wait_for_event(self._stopping, RETRY_SECONDS)
        finally:
            await self._pull.stop()

    async def _step(self) -> bool:
        """One turn of the loop. Returns False when a burst is over."""
        await self._gate.wait_open()
        if self._stopping.is_set():
            return False
        await self._slots.wait_for_room()
        if self._stopping.is_set():
            return False
        # Last, with nothing awaited between it and the pull: the connection may have changed during the waits above.
        await self._load_known_attempts()
        if self._gate.is_closed:
            return True  # a task requested isolation during the waits
        idle = not len(self._leases)
        count, problem = await self._pull.probe(self._slots.free)
        if problem is None and not count:
            if self._burst:
                # A burst ends only if nothing was in flight before the probe: a task that ended during the probe may
                # have submitted another behind it.
                if not idle:
                    await self._wait_for_running()
                return not idle
            if self._slots.free and not self._stopping.is_set():
                problem = await self._pull.wait(self._slots.free)
        if problem and not self._stopping.is_set() and problem != "reconnected":
            logger.warning("pulling: the server says %r", problem)
            await wait_for_event(self._stopping, RETRY_SECONDS)
        return True

    async def _load_known_attempts(self) -> None:
        while (generation := self._connection.generation) != self._loaded_generation:
            if self._inspected_generation != generation:
                self._leases.set_ack_wait(await self.inspect_queues())
            info = await self._connection.api(f"STREAM.INFO.{self._stream}")
            await self._attempts.load_known(info["state"]["first_seq"])
            self._loaded_generation = generation

    async def _wait_for_running(self) -> None:
        """In a burst with empty queues, wait for one running task to end: it may submit another, or come back."""
        if not (running := self._in_flight.running()):
            return
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
