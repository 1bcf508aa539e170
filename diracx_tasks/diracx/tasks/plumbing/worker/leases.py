"""Leases: how long this worker may settle a message, and the one loop that sends the heartbeats for all messages.

The server starts a timer of `ack_wait` with the delivery of a message, and again with each heartbeat (`+WPI`). When it
runs out, the server redelivers the message. A lease holds until

    deadline = timer_start + ack_wait - margin          margin = a tenth of `ack_wait`, 1 s at the most

Invariants:

- `timer_start` is never later than the moment at which the server started its timer, but for time in the network.
  - For a delivery it is the later of two times: when its pull request was sent, and the second to last tick of the loop
    of heartbeats. The tick matters for a process that was stopped (SIGSTOP, a suspended machine):

        tick 1 ... tick 2 ... [stopped; messages arrive in its buffers] ... tick 3 ... the buffer is read

    A message that is read after the pause looks fresh, and may be as old as the pause. The last tick may have come
    after the pause and before the buffer was read; the one before it did not.
  - For a heartbeat it is when the `+WPI` was sent, and it counts only once the server has answered: a request that
    vanishes in a dead connection proves nothing.
- Time that a message spends in the network is seen by no tick. So the first heartbeat is due a third of `ack_wait`
  after the *request* of the delivery; a message that a long poll brought mostly gets one at once.
- Past its deadline a message gets no heartbeat and is never settled, and its task is cancelled. Ack, nak and term are
  not fenced, and another worker may have the message. One exception: a message that this worker finished before is
  acked once more, which is right whoever has it (`Settlement.ack_again`).
- A message that was given back gets no heartbeat: it would shorten the delay of the nak.
- The clock is `CLOCK_BOOTTIME`, which runs on while a machine sleeps.

Crash points: none. A crash leaves nothing behind; the server's timer runs out and the message is redelivered.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from functools import partial
from typing import Any, Final

from diracx.tasks.plumbing.background import ChildTasks
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, TaskError, shown
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.last_resort import LastResort
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery, ReplySubject
from diracx.tasks.plumbing.observability import log_context
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_NAME
from diracx.tasks.plumbing.worker.attempts import Attempts

logger = logging.getLogger("diracx.tasks.worker")

MAX_TICK_SECONDS: Final = 1.0
MAX_MARGIN_SECONDS: Final = 1.0
LAPSED: Final = Cancellation(Cause.LEASE_LAPSED, "its lease lapsed")
MADE_ANEW: Final = Cancellation(Cause.LEASE_LAPSED, "its stream was made anew")


class LeaseLapsedError(TaskError):
    """The lease lapsed or was withdrawn: another worker may have the message, so this one must not settle it."""


class StillExecutingError(TaskError):
    """An earlier delivery of the message, or of another one of its sequence, still executes in this process."""


class Lease:
    """The right of this worker to settle one message in flight."""

    __slots__ = (
        "_clock",
        "attempts",
        "deadline",
        "delivery",
        "execution",
        "given_back",
        "has_slot",
        "heartbeat_pending",
        "last_contact",
        "settling",
        "started",
        "task",
        "withdrawn",
    )

    def __init__(
        self,
        delivery: Delivery,
        last_contact: float,
        deadline: float,
        clock: Clock,
        owner: asyncio.Task[Any] | None = None,
        last_resort: LastResort | None = None,
    ) -> None:
        self._clock = clock
        self.delivery = delivery
        self.last_contact = last_contact
        """The next heartbeat is due a third of `ack_wait` after this: the request of the delivery, or the last answered
        heartbeat."""
        self.deadline = deadline
        self.started = last_contact
        """When the message was taken, on the clock."""
        self.heartbeat_pending = False
        self.task: asyncio.Task[None] | None = None
        """The asyncio task that processes the message; None: none does yet."""
        self.execution = Execution(partial(describe, delivery), owner, last_resort)
        """Cancels the task, and knows why."""
        self.settling = False
        """Whether the outcome is known, and its answer is on the way."""
        self.has_slot = True
        """Whether the message takes up a slot, see `InFlight.free_slot`."""
        self.given_back = False
        """Whether its nak was sent: the server may deliver the message again at any moment, also to this worker."""
        self.withdrawn: str | None = None
        """The reason of `withdraw`; None while it was not called."""
        self.attempts: Attempts | None = None
        """The attempt record, once it was loaded."""

    def describe(self) -> str:
        """The name and id of the task, for a log line."""
        return describe(self.delivery)

    @property
    def remaining(self) -> float:
        """Seconds for which the lease still holds; zero or less once it lapsed."""
        return self.deadline - self._clock()

    @property
    def name(self) -> str:
        """The name of the task for a log line."""
        return shown_name(self.delivery)

    @property
    def elapsed(self) -> float:
        """Seconds since `started`."""
        return self._clock() - self.started

    @property
    def timing(self) -> dict[str, Any]:
        """The `extra` of a log line that tells how the delivery ended: its `duration` in seconds, for JSON."""
        return {log_context.JSON_FIELDS: {"duration": round(self.elapsed, 3)}}

    def ensure_held(self) -> None:
        """Check the lease right before settling: a process that was stopped gets here before any tick of the loop.

        Raises:
            LeaseLapsedError: The lease lapsed, or was withdrawn.
        """
        if self.withdrawn is not None:
            raise LeaseLapsedError(f"message {self.delivery.sequence} is given back: {self.withdrawn}")
        if self._clock() >= self.deadline:
            self.ensure_in_time()

    def ensure_in_time(self) -> None:
        """Check the deadline alone, where the message of a withdrawn lease is given back.

        Raises:
            LeaseLapsedError: The lease lapsed.
        """
        if self._clock() >= self.deadline:
            raise LeaseLapsedError(f"the lease on message {self.delivery.sequence} lapsed; another worker may have it")

    def nak(self, delay: timedelta = timedelta(0)) -> None:
        """Give the message back, to be redelivered after `delay`. The lease gets no more heartbeats.

        Raises:
            ServerUnavailableError: No connection; nothing was sent.
        """
        self.delivery.nak(delay)
        self.given_back = True

    def close(self) -> None:
        """The outcome is known: it is too late to cancel the execution."""
        self.settling = True
        self.execution.close()

    def withdraw(self, reason: str) -> None:
        """Keep the task from settling its message: the caller gives it back. The task is not cancelled."""
        self.close()
        self.withdrawn = reason


def shown_name(delivery: Delivery) -> str:
    """The name of the task for a log line."""
    return shown((delivery.headers or {}).get(TASK_NAME, "a message without a name"))


def describe(delivery: Delivery) -> str:
    """The name and id of the task, for a log line."""
    return f"{shown_name(delivery)} {shown((delivery.headers or {}).get(TASK_ID, ''))}".strip()


class LeaseKeeper:
    """The leases of all messages in flight in one worker.

    Args:
        ack_wait: The `ack_wait` of the consumers on the server.
        last_resort: Of the executions.
    """

    def __init__(self, ack_wait: timedelta, clock: Clock = boottime, last_resort: LastResort | None = None) -> None:
        self._clock = clock
        self._last_resort = last_resort
        self.owner: asyncio.Task[Any] | None = None
        """The asyncio task of the worker, see `Execution`."""
        self.set_ack_wait(ack_wait)
        self._last_tick = self._previous_tick = clock()
        self._leases: dict[int, Lease] = {}
        self._heartbeats = ChildTasks()

    def set_ack_wait(self, ack_wait: timedelta) -> None:
        """Use this `ack_wait` from now on. A message in flight goes by it from its next heartbeat on."""
        seconds = ack_wait.total_seconds()
        self.held_seconds = seconds - min(MAX_MARGIN_SECONDS, seconds / 10)
        """How long a lease holds without a heartbeat."""
        self.heartbeat_seconds = seconds / 3
        """A heartbeat is due this long after the last one."""
        self.tick_seconds = min(MAX_TICK_SECONDS, seconds / 12)

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def unanswered(self) -> int:
        """How many messages in flight have had no answered heartbeat for twice the time between two."""
        since = self._clock() - 2 * self.heartbeat_seconds
        return sum(not lease.settling and max(lease.last_contact, lease.started) < since for lease in self.all)

    @property
    def all(self) -> list[Lease]:
        """A copy: the lease of each message in flight."""
        return list(self._leases.values())

    def take(self, delivery: Delivery) -> Lease | None:
        """Take a lease on a message that was just read. Returns None when the message must be dropped unsettled:

        - it is too old to be trusted, or
        - it is in flight here already: a server that was killed may forget that it delivered the message. The lease
          in flight covers both deliveries, because an ack of either one settles the sequence.

        A message that was given back here a moment ago is no longer in flight: its next delivery is taken.

        Raises:
            StillExecutingError: The lease of an earlier delivery lapsed, or its stream was made anew, and its execution
                has not ended. That execution is interrupted. Give the message back with a delay, so that this process
                never executes it twice at a time.
        """
        held = self._leases.get(delivery.sequence)
        if held is not None and held.given_back:
            held = None
        same = held is not None and held.delivery.stored_ns == delivery.stored_ns
        if held is not None and same and held.remaining > 0:
            logger.info("message %d was delivered twice to this worker; it is executed once", delivery.sequence)
            return None
        timer_start = max(delivery.requested, self._previous_tick)
        deadline = timer_start + self.held_seconds
        if (now := self._clock()) >= deadline:
            logger.warning("dropped message %d unsettled: it lay too long in a stopped process", delivery.sequence)
            return None
        if held is not None and held.task is not None and not held.task.done():
            held.execution.cancel(LAPSED if same else MADE_ANEW)
            # No heartbeat and no answer: they would reach the message of the same sequence that was delivered now.
            held.deadline, held.withdrawn = min(held.deadline, now), "it was delivered again"
            raise StillExecutingError(f"an earlier delivery of message {delivery.sequence} still executes here")
        lease = Lease(delivery, delivery.requested, deadline, self._clock, self.owner, self._last_resort)
        lease.started = now
        self._leases[delivery.sequence] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """End a lease: its message is settled, or left unsettled. It gets no more heartbeats."""
        if self._keeps(lease):
            del self._leases[lease.delivery.sequence]

    def _keeps(self, lease: Lease) -> bool:
        return self._leases.get(lease.delivery.sequence) is lease

    async def run(self) -> None:
        """Send heartbeats and interrupt tasks whose lease lapsed, until cancelled."""
        try:
            while True:
                self._heartbeats.check()
                self._previous_tick, self._last_tick = self._last_tick, self._clock()
                self._check_all(self._last_tick)
                await asyncio.sleep(self.tick_seconds)
        finally:
            self._heartbeats.cancel()

    def _check_all(self, now: float) -> None:
        for lease in self._leases.values():
            if now >= lease.deadline:
                lease.execution.cancel(LAPSED)
            elif not lease.heartbeat_pending and now >= lease.last_contact + self.heartbeat_seconds:
                lease.heartbeat_pending = True
                sending = self._heartbeat(lease, lease.delivery)
                self._heartbeats.start(sending, f"heartbeat {lease.delivery.sequence}")

    async def relieve(self, connection: Connection) -> None:
        """Send the heartbeats that are due through another connection. For another thread, while the event loop of
        the worker is held up."""
        now = self._clock()
        due = [
            self._heartbeat(lease, ReplySubject(connection, lease.delivery.reply))
            for lease in self.all
            if lease.last_contact + self.heartbeat_seconds <= now < lease.deadline and not lease.settling
        ]
        await asyncio.gather(*due)

    async def _heartbeat(self, lease: Lease, subject: ReplySubject) -> None:
        sent = self._clock()
        try:
            # Checked again here: the message may have been settled since this task was created.
            if not self._keeps(lease) or sent >= lease.deadline or lease.withdrawn is not None or lease.given_back:
                return
            await subject.in_progress(timeout=self.heartbeat_seconds)
        except ServerUnavailableError as error:
            logger.debug("a heartbeat of message %d got no answer: %s", lease.delivery.sequence, error)
        else:
            lease.last_contact = sent
            lease.deadline = max(lease.deadline, sent + self.held_seconds)
        finally:
            lease.heartbeat_pending = False
