"""May this message come in? The pull loop, and the check that each message passes when it arrives.

The loop repeats four steps until it is stopped. `stop` ends each of them at once, also the requests of 3, which may
last as long as a cluster has no leader: the grace period of running tasks begins after it.

1. wait until the isolation gate is open; it is looked at again right before 4, because it may close during 2 and 3;
2. wait until enough slots are free;
3. after a (re)connect, and once pulls work again, read the `ack_wait` of the queues, which may have changed, and learn
   which messages have an attempt record: the server may have forgotten its counts;
4. pull for the free slots; where the queues are empty, wait for a message to arrive.

What keeps it from pulling is worked out by reading the queues, and told in one line a minute; it tries again each
second. While one of the three queues is missing, the others are served: without waiting for arrivals, each second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final, TypeVar

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.enums import Priority
from diracx.tasks.plumbing.exceptions import ServerError, ServerUnavailableError
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS, assets
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.consumer_pause import pause_end_text, paused_until
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.errors import ApiError
from diracx.tasks.plumbing.jetstream.pull import RECONNECTED, StrictPriorityPull
from diracx.tasks.plumbing.jetstream.topology import missing
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.in_flight import InFlight
from diracx.tasks.plumbing.worker.isolation import IsolationGate
from diracx.tasks.plumbing.worker.leases import LeaseKeeper, StillExecutingError
from diracx.tasks.plumbing.worker.settings import WorkerSettings
from diracx.tasks.plumbing.worker.slots import Slots

T = TypeVar("T")

logger = logging.getLogger("diracx.tasks.worker")

RETRY_SECONDS: Final = 1.0
DIAGNOSE_EVERY: Final = 10
"""Of so many tries in a row that fail in the same way, one asks the server for the reason."""
LAG_SECONDS: Final = 0.5
"""How long the leader of a queue may lag behind that of its stream."""
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
        self._needed = [
            asset
            for asset in assets(namespace)
            if asset.stream == self._stream and (asset.kind == "stream" or asset.name in self._consumers)
        ]
        self._outage = LastingFailure(logger, "cannot pull", "can pull again")
        self._symptoms: tuple[str, dict[str, str]] | None = None
        """The statuses for which the reason of the outage was last asked for."""
        self._doubted = False
        """Whether a wait has ended with a problem: the next probe tells what it is."""
        self._burst = settings.burst
        self._may_be_behind = True
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
        """When a pull was last answered with messages, or by an empty queue, on the clock; None: never."""
        return self._pull.last_answer

    @property
    def last_word(self) -> float | None:
        """As `last_pull`, but a refusal of the server counts, too."""
        return self._pull.last_word

    @property
    def why_not_pulling(self) -> str | None:
        """Why the latest pull failed, for one queue or for all, and what to do; None: it did not."""
        return self._outage.reason

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

    async def inspect_queues(self, *, all_there: bool = False) -> timedelta:
        """Read the three consumers, and log which of them are paused: a worker without work needs an explanation.

        Args:
            all_there: Whether a missing one is an error, as at the start of a worker. Later the pull tells of it.

        Returns:
            The shortest `ack_wait` of the consumers, as the server has it now: an operator may have changed it.

        Raises:
            ServerError: No queue can be used, or one is missing.
        """
        self._inspected_generation = self._connection.generation
        infos = [info for info in await asyncio.gather(*map(self._read_queue, self._consumers)) if info is not None]
        if not infos or (all_there and len(infos) < len(self._consumers)):
            raise ServerError(await missing(self._connection, self._needed) or f"{self._stream} was just created")
        for info in infos:
            if (until := paused_until(info)) is not None:
                logger.info("the queue %s is paused until %s", info["name"], pause_end_text(until))
        return timedelta(seconds=min(info["config"]["ack_wait"] for info in infos) / NANOSECONDS)

    async def _read_queue(self, consumer: str) -> dict[str, Any] | None:
        try:
            return await self._connection.api(f"CONSUMER.INFO.{self._stream}.{consumer}")
        except ApiError:
            return None  # `missing` tells

    async def await_queues(self) -> timedelta | None:
        """Read the queues at the start of a worker, and wait while nobody answers, as an outage later is waited out.

        Returns:
            As `inspect_queues`; None: stopped meanwhile.

        Raises:
            ServerError: As `inspect_queues(all_there=True)`.
        """
        while not self._stopping.is_set():
            try:
                ack_wait = await self.inspect_queues(all_there=True)
            except ServerUnavailableError as error:
                self._outage.failed(str(error))
                await self.pause(RETRY_SECONDS)
            else:
                self._outage.succeeded()
                return ack_wait
        return None

    async def run(self) -> None:
        """Pull until stopped, or in a burst until nothing is left that is due."""
        await self._pull.start()
        try:
            while not self._stopping.is_set():
                try:
                    if not await self._step():
                        return
                except ServerError as error:
                    await self._note_problem(str(error))
                    await self.pause(RETRY_SECONDS)
        finally:
            await self._pull.stop()

    async def pause(self, seconds: float) -> None:
        """Sleep, until `stop` at the longest."""
        await wait_for_event(self._stopping, seconds)

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
        if self._stopping.is_set():
            return False
        if self._gate.is_closed:
            return True  # a task requested isolation during the waits
        idle = not len(self._leases)
        count, problem = await self._pull.probe(min(self._slots.free, self._slots.at_once))
        self._may_be_behind |= count > 0
        if problem is None and not count:
            if self._burst:
                # A burst ends only if nothing was in flight before the probe: a task that ended during the probe may
                # have submitted another behind it.
                if not idle:
                    await self._wait_for_running()
                return not idle or await self._may_lag()
            if self._slots.free and not self._stopping.is_set():
                self._note_success()  # the wait may last for half a minute
                problem = await self._pull.wait(self._slots.free)
                known, self._doubted = self._doubted, bool(problem)
                if problem and not known:
                    return True
        await self._judge(problem, count)
        return True

    async def _may_lag(self) -> bool:
        """In a burst with empty queues, whether to look once more: in a cluster, the leader of a queue may hear of a
        message a moment after it was acknowledged."""
        lagging, self._may_be_behind = self._may_be_behind and self._connection.in_cluster, False
        if lagging:
            await self.pause(LAG_SECONDS)
        return lagging

    async def _judge(self, problem: str | None, count: int) -> None:
        """Note whether a pull that brought `count` messages failed. Without messages, pause before the next try."""
        if self._stopping.is_set() or problem == RECONNECTED:
            return
        problem = problem or next(iter(self._pull.problems.values()), None)
        if problem is None:
            self._note_success()
            return
        await self._note_problem(f"the server says {problem!r}")
        if not count:
            await self.pause(RETRY_SECONDS)

    def _note_success(self) -> None:
        if self._outage.reason is not None:
            # A queue that was made anew may have another `ack_wait`, and its stream counts from 1.
            self._inspected_generation = self._loaded_generation = -1
        self._outage.succeeded()
        self._symptoms = None

    async def _note_problem(self, problem: str) -> None:
        symptoms = (problem, dict(self._pull.problems))
        reason = self._outage.reason
        if reason is None or symptoms != self._symptoms or self._outage.tries % DIAGNOSE_EVERY == 0:
            self._symptoms = symptoms
            reason = await self._unless_stopped(self._diagnose()) or problem
        self._outage.failed(reason)

    async def _diagnose(self) -> str | None:
        """Ask the server why pulls fail; None: it finds nothing wrong, or does not answer."""
        if not self._connection.is_connected:
            return "not connected to NATS"
        try:
            return await missing(self._connection, self._needed)
        except ServerError as error:
            return str(error)

    async def _load_known_attempts(self) -> None:
        while self._connection.generation != self._loaded_generation and not self._stopping.is_set():
            await self._unless_stopped(self._load_once())

    async def _load_once(self) -> None:
        generation = self._connection.generation
        if self._inspected_generation != generation:
            self._leases.set_ack_wait(await self.inspect_queues())
        info = await self._connection.api(f"STREAM.INFO.{self._stream}")
        await self._attempts.load_known(info["state"]["first_seq"])
        self._loaded_generation = generation

    async def _unless_stopped(self, requests: Coroutine[Any, Any, T]) -> T | None:
        """Carry out requests, and give them up when the worker is stopped; then it returns None."""
        carried_out = asyncio.create_task(requests, name="requests of the intake")
        stopped = asyncio.create_task(self._stopping.wait(), name="stop of the intake")
        try:
            await asyncio.wait([carried_out, stopped], return_when=asyncio.FIRST_COMPLETED)
            return carried_out.result() if carried_out.done() else None
        finally:
            for each in (carried_out, stopped):
                each.cancel()
            await asyncio.gather(carried_out, stopped, return_exceptions=True)

    async def _wait_for_running(self) -> None:
        """In a burst with empty queues, wait for one running task to end: it may submit another, or come back."""
        if not (running := self._in_flight.running()):
            return
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
