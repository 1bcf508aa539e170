"""Leases: how long a message in hand is ours, and the one loop that keeps all of them alive.

The server redelivers a message `ack_wait` after it last heard of it: at the delivery, or at a `+WPI`. A lease is
trusted until

    deadline = heard + ack_wait - margin

where `heard` is never later than the moment at which the server started its timer:

- For a delivery it is the later of when its pull request was sent and the last tick of this loop but one. The tick
  matters for a process that was stopped (SIGSTOP, a suspended machine): messages that lay in its buffers meanwhile
  look fresh, but the tick before the pause tells how old they may be. The last tick itself will not do, since after a
  pause the timer may fire before the buffer is read. What a tick cannot see is time spent in the network; so a message
  is beaten a third of `ack_wait` after its *request*, which for one that a long poll brought is mostly at once.
- For a beat it is when the `+WPI` was sent, and only once the server has answered it: a request that vanishes in a
  dead connection proves nothing.

Past its deadline a message is never beaten nor settled again, and its task is cancelled: ack, nak and term are not
fenced, and another worker may have the message. The clock is `CLOCK_BOOTTIME`, which runs on while a machine sleeps.

What a crash leaves behind: nothing. The server's timer runs out and the message is delivered to somebody else.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, TaskError
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.worker.attempts import Attempts

logger = logging.getLogger("diracx.tasks.worker")

_LONGEST_TICK: Final = 1.0


class LeaseLapsedError(TaskError):
    """The message may be in another worker's hands by now; it must not be settled here."""


class Lease:
    """One message in hand."""

    __slots__ = (
        "_clock",
        "attempts",
        "beating",
        "deadline",
        "delivery",
        "interrupted",
        "last_heard",
        "settling",
        "task",
        "waiting",
    )

    def __init__(self, delivery: Delivery, heard: float, deadline: float, clock: Clock) -> None:
        self._clock = clock
        self.delivery = delivery
        self.last_heard = heard
        self.deadline = deadline
        self.beating = False
        self.task: asyncio.Task[None] | None = None
        """What executes it."""
        self.waiting = False
        """Whether its task has yet to `begin`; cancelled now, it could not even give the message back."""
        self.interrupted: str | None = None
        """Why its task was cancelled by its worker; None while it was not."""
        self.settling = False
        """Its outcome is known: too late to interrupt it."""
        self.attempts: Attempts | None = None
        """Its record, once it was read."""

    @property
    def remaining(self) -> float:
        """Seconds for which the lease is still trusted; negative when it lapsed."""
        return self.deadline - self._clock()

    def ensure(self) -> None:
        """Check the lease right before settling: a process that was stopped gets here before any watchdog.

        Raises:
            LeaseLapsedError: It lapsed.
        """
        if self._clock() >= self.deadline:
            raise LeaseLapsedError(f"the lease on message {self.delivery.sequence} lapsed; it is left to others")

    def begin(self) -> bool:
        """The first step of its task; False when it was interrupted before."""
        self.waiting = False
        return self.interrupted is None

    def interrupt(self, reason: str) -> None:
        """Cancel what executes it, and say why; what is being settled is left alone.

        What is `waiting` is told when it begins. For another reason it is cancelled again: the first cancellation may
        have been swallowed.
        """
        if self.settling or self.interrupted == reason or self.task is None:
            return
        if not self.task.done():
            self.interrupted = reason
            if not self.waiting:
                self.task.cancel()


class LeaseKeeper:
    """All messages in hand of one worker.

    Args:
        ack_wait: As the consumer has it on the server.
    """

    def __init__(self, ack_wait: timedelta, clock: Clock = boottime) -> None:
        self._clock = clock
        self.adopt(ack_wait)
        self._last_tick = self._tick_before = clock()
        self._leases: dict[int, Lease] = {}
        self._beats: set[asyncio.Task[None]] = set()

    def adopt(self, ack_wait: timedelta) -> None:
        """Go by this `ack_wait` from now on; before anything is in hand."""
        seconds = ack_wait.total_seconds()
        self._trusted = seconds - min(1.0, seconds / 10)
        self._beat_after = seconds / 3
        self._tick = min(_LONGEST_TICK, seconds / 12)

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def all(self) -> list[Lease]:
        """A copy of what is in hand."""
        return list(self._leases.values())

    def take(self, delivery: Delivery) -> Lease | None:
        """Take a message that was just read; None when it must be dropped unsettled.

        That is one which is too old to be trusted, and one which is in hand already: a server that was killed may have
        forgotten that it handed it out. The lease in hand speaks for it; the server goes by the sequence.
        """
        held = self._leases.get(delivery.sequence)
        if held is not None and held.delivery.stored_ns == delivery.stored_ns and held.remaining > 0:
            logger.info("message %d was handed out twice to this worker; it is executed once", delivery.sequence)
            return None
        heard = max(delivery.requested, self._tick_before)
        deadline = heard + self._trusted
        if self._clock() >= deadline:
            logger.warning("message %d lay too long in a stopped process; it is left to others", delivery.sequence)
            return None
        lease = Lease(delivery, delivery.requested, deadline, self._clock)
        self._leases[delivery.sequence] = lease
        return lease

    def drop(self, lease: Lease) -> None:
        """The message is settled, or left: it is not beaten any more."""
        if self._holds(lease):
            del self._leases[lease.delivery.sequence]

    def _holds(self, lease: Lease) -> bool:
        return self._leases.get(lease.delivery.sequence) is lease

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            while True:
                self._tick_before, self._last_tick = self._last_tick, self._clock()
                self._look(self._last_tick)
                await asyncio.sleep(self._tick)
        finally:
            for beat in self._beats:
                beat.cancel()

    def _look(self, now: float) -> None:
        for lease in self._leases.values():
            if now >= lease.deadline:
                lease.interrupt("its lease lapsed")
            elif not lease.beating and now >= lease.last_heard + self._beat_after:
                lease.beating = True
                beat = asyncio.create_task(self._beat(lease), name=f"beat {lease.delivery.sequence}")
                self._beats.add(beat)
                beat.add_done_callback(self._beats.discard)

    async def _beat(self, lease: Lease) -> None:
        sent = self._clock()
        try:
            # Looked at again here: a beat after settling would shorten the delay of a nak.
            if not self._holds(lease) or sent >= lease.deadline:
                return
            await lease.delivery.in_progress(timeout=self._beat_after)
        except ServerUnavailableError as error:
            logger.debug("message %d was not beaten: %s", lease.delivery.sequence, error)
        else:
            lease.last_heard = sent
            lease.deadline = max(lease.deadline, sent + self._trusted)
        finally:
            lease.beating = False
