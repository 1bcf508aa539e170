"""The messages in flight in one worker, from the first step of each until its slot is free again.

`LeaseKeeper` keeps them, each by its lease. Here each one gets an asyncio task, and a stop of the worker ends them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError, shown
from diracx.tasks.plumbing.execution.cancellation import Cancellation, Cause
from diracx.tasks.plumbing.execution.execution import Execution
from diracx.tasks.plumbing.execution.shared_loop import EAGERLY, ExecutionTask
from diracx.tasks.plumbing.execution.stacks import line_of_thread
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.wire.envelope import TASK_ID, TASK_LABELS, trace_id_of
from diracx.tasks.plumbing.worker.attempts import AttemptStore
from diracx.tasks.plumbing.worker.isolation import IsolationGate
from diracx.tasks.plumbing.worker.leases import Lease, LeaseKeeper, shown_name
from diracx.tasks.plumbing.worker.processing import Processor
from diracx.tasks.plumbing.worker.slots import Slots
from diracx.tasks.plumbing.worker.snapshot import InFlightQuery, InFlightTask, attempt_number

logger = logging.getLogger("diracx.tasks.worker")

# What still runs is given back with these delays, longer than the process needs to exit, so that no task runs twice at
# a time: at once or by force, and in order, which closes threads and connections first.
EXIT_DELAY: Final = timedelta(seconds=3)
ORDERLY_EXIT_DELAY: Final = timedelta(seconds=15)
CLEAN_UP_SECONDS: Final = 7.0
"""Cancelled tasks have this time to clean up. Those that swallow it are cancelled again after `INSIST_SECONDS`."""


MAX_WITHOUT_SLOT: Final = 100
"""How many messages may be in flight beyond the slots: their tasks have ended, and the end is being written."""
MAX_ARGS_BYTES: Final = 500
MAX_LABELS_BYTES: Final = 2_000
MAX_LOCKS_SHOWN: Final = 20


class InFlight:
    """The messages in flight in one worker."""

    def __init__(self, leases: LeaseKeeper, slots: Slots, gate: IsolationGate, processor: Processor) -> None:
        self._leases = leases
        self._slots = slots
        self._gate = gate
        self._processor = processor
        self._new: deque[Lease] = deque()
        """The messages that have not begun."""
        self._holds_back = False
        """Whether messages after the first one of this turn are held back, see `start`."""
        self._waits_for_a_pull = False
        """Whether they are: many slots were left when the latest message was taken."""
        self._without_slot = 0
        """The messages whose tasks have ended, and whose slots are free, while they are being settled."""
        self.processed = 0
        """Deliveries carried to an end."""

    def start(self, lease: Lease) -> None:
        """Process a message that holds a lease and a slot, in an asyncio task of its own.

        It begins in the next turn of the event loop, not within the read of the socket that brought it: a read that is
        not interrupted is cheaper (by 4 us a task under Python 3.11, 2 under 3.13), and code that blocks delays none.

        Of several messages that one read brings, all but the first begin one turn later where many slots are left: the
        pull for those leaves before, and the server works meanwhile (a fourth more no-op tasks a second).
        """
        loop = asyncio.get_running_loop()
        self._new.append(lease)
        is_first, self._holds_back = not self._holds_back, True
        self._waits_for_a_pull = self._slots.wait_for_a_pull
        if is_first:
            if EAGERLY:
                loop.call_soon(self._begin_new, 1)
            loop.call_soon(self._begin_held_back)
        if not EAGERLY and (is_first or not self._waits_for_a_pull):
            self._begin_new()

    def _begin_held_back(self) -> None:
        self._holds_back = False
        if EAGERLY and self._waits_for_a_pull:
            asyncio.get_running_loop().call_soon(self._begin_new)
        else:
            self._begin_new()

    def _begin_new(self, most: int = sys.maxsize) -> None:
        """Begin what is new, `most` messages at most. Before Python 3.12 the first steps follow in the next turn. Since
        then they run here, one after another, each up to where it waits: a task without waits ends here.
        """
        loop = asyncio.get_running_loop()
        try:
            while self._new and most > 0:
                lease, most = self._new.popleft(), most - 1
                lease.task = ExecutionTask(self._carry(lease), lease.execution, loop, **EAGERLY)
        finally:
            if most > 0 and self._new:  # an exception that ends event loops, raised in the first step of one
                loop.call_soon(self._begin_new)

    async def _carry(self, lease: Lease) -> None:
        try:
            await self._processor.process(lease)
        except asyncio.CancelledError:
            if lease.remaining > 0 and lease.withdrawn is None:
                self.give_back(lease.delivery)  # not cancelled by its own worker: the loop ends
            raise
        finally:
            # In `finally`, not in a done callback, which runs one turn of the loop later: so the slot is free at once,
            # and the ack and the next pull leave in one write.
            self.processed += 1
            self._leases.drop(lease)
            if lease.has_slot:
                self._slots.release()
            else:
                self._without_slot -= 1
            self._gate.message_ended()

    def free_slot(self, lease: Lease) -> None:
        """Free the slot of a message whose task has ended, while its end is being written, for another message."""
        if lease.has_slot and self._without_slot < MAX_WITHOUT_SLOT:
            self._without_slot += 1
            lease.has_slot = False
            self._slots.release()

    def give_back(self, delivery: Delivery, delay: timedelta = timedelta(0)) -> None:
        """Nak a message and leave its attempt record as it is. The server redelivers it after `delay`."""
        try:
            delivery.nak(delay)
        except ServerUnavailableError as error:
            logger.info("a message was not given back: %s; it is redelivered when its lease lapses", error)

    def running(self) -> list[asyncio.Task[None]]:
        """The asyncio tasks that process messages now. Messages that are new begin before."""
        self._begin_new()
        return [lease.task for lease in self._leases.all if lease.task is not None and not lease.task.done()]

    def described(
        self, query: InFlightQuery, now: datetime, held_up_by: tuple[Execution | None, int] | None
    ) -> list[InFlightTask]:
        """The tasks in flight that fit, for operators. For any thread.

        Args:
            now: The time of the server.
            held_up_by: The execution that holds up the event loop, and the thread of the loop; None: none does.
        """
        return [
            self._describe(lease, now, held_up_by, query.details)
            for lease in self._leases.all
            if query.fits(lease.delivery.headers or {}, lease.delivery.sequence)
        ]

    def _describe(
        self, lease: Lease, now: datetime, held_up_by: tuple[Execution | None, int] | None, details: bool
    ) -> InFlightTask:
        delivery, execution, cancelled = lease.delivery, lease.execution, lease.execution.cancellation
        headers, held, name = delivery.headers or {}, execution.held, shown_name(delivery)
        task_id = headers.get(TASK_ID) or str(delivery.sequence)
        blocked = None
        if held_up_by is not None and held_up_by[0] is execution:
            blocked = held_up_by[1]
        elif cancelled is not None and execution.code_runs and not execution.yielded:
            blocked = execution.thread
        state = "starting"
        if lease.settling or execution.code_ended:
            state = "settling"
        elif execution.code_runs:
            state = "executing"
        elif self._gate.holds(f"{name} {shown(task_id)}"):
            state = "waiting for isolation"
        at, asked = boottime(), execution.cancelled_at
        return InFlightTask(
            id=shown(task_id),
            task=name,
            subject=delivery.subject,
            sequence=delivery.sequence,
            since=now - timedelta(seconds=at - lease.started),
            attempt=attempt_number(lease.attempts),
            state=state,
            cancelled_since=None if asked is None else now - timedelta(seconds=at - asked),
            cancelled_for=None if cancelled is None else cancelled.reason,
            blocked_at=None if blocked is None else line_of_thread(blocked),
            args=delivery.body[:MAX_ARGS_BYTES].decode(errors="replace") if details else None,
            labels=_labels(headers) if details else {},
            locks=[] if held is None else [shown(each.key) for each in held.acquired[:MAX_LOCKS_SHOWN]],
            trace_id=trace_id_of(headers),
        )

    def stop(self, reason: str) -> None:
        """Cancel every task that still executes. Their messages are given back, without a failure in their records."""
        for lease in self._leases.all:
            lease.execution.cancel(Cancellation(Cause.STOP, reason))

    def cancel(self, reason_of: Callable[[Delivery], str | None]) -> None:
        """Cancel the tasks that an operator has cancelled. One that has not begun is given back, and is settled as
        cancelled when it comes again.

        Args:
            reason_of: Why a task is cancelled; None: it is not.
        """
        for lease in self._leases.all:
            if (reason := reason_of(lease.delivery)) is not None:
                lease.execution.cancel(Cancellation(Cause.CANCELLED, reason))

    async def wind_down(self, grace: timedelta, attempts: AttemptStore) -> None:
        """Wait up to `grace` for running tasks to end, then cancel the rest and give their messages back.

        Returns `CLEAN_UP_SECONDS` after the grace period at the latest, also when code ignores its cancellation or
        keeps its thread: its message is given back all the same, because the process ends.
        """
        if running := self.running():
            logger.info("stopping: %d tasks have %.0f s to end", len(running), grace.total_seconds())
            await asyncio.wait(running, timeout=grace.total_seconds())
        self.stop("the worker stops")
        if running := self.running():
            await asyncio.wait(running, timeout=CLEAN_UP_SECONDS)
        if self.running():
            names = ", ".join(lease.describe() for lease in self._leases.all)
            logger.error("cancelled, and still running when the worker ends: %s", names)
            await self.abandon(attempts, ORDERLY_EXIT_DELAY)

    async def abandon(self, attempts: AttemptStore, delay: timedelta = EXIT_DELAY) -> None:
        """Give back every message whose lease holds, without a failure in its record: the process ends without them.

        An error is only logged, and spares the other messages. From the first step on, no task settles its message.
        """
        abandoned = [lease for lease in self._leases.all if not lease.settling and lease.remaining > 0]
        for lease in abandoned:
            lease.withdraw("the process ends")
        await asyncio.gather(*(self._abandon(lease, attempts, delay) for lease in abandoned))

    async def _abandon(self, lease: Lease, attempts: AttemptStore, delay: timedelta) -> None:
        try:
            if lease.attempts is not None:
                await attempts.interrupt(lease.attempts)
            lease.ensure_in_time()
            self._leases.drop(lease)  # a heartbeat would shorten the delay
            lease.delivery.nak(delay)
        except Exception as error:
            delivery = lease.delivery
            logger.warning("left %s (message %d) unsettled: %s", shown_name(delivery), delivery.sequence, error)


def _labels(headers: Mapping[str, str]) -> dict[str, Any]:
    text = headers.get(TASK_LABELS, "{}").encode()
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if len(text) <= MAX_LABELS_BYTES else {}
    except (msgspec.MsgspecError, RecursionError):  # somebody wrote them by hand: the task fails with that reason
        return {}
