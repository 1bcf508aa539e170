"""The latest answers of a worker, given again after an outage.

The server writes what its consumers know about ten times a second, so a kill makes it forget what it was told last. A
forgotten ack lets a task that is done be executed once more; a forgotten nak lets a retry come when `ack_wait` has run
out, up to that much after its time. So after each reconnect the latest answers are given again. Where the server has
forgotten the delivery, too, it ignores them and hands the message out anew; when that is to this worker, it knows.

Answers are not fenced, and somebody else may have the message by now. That does no harm:

- An ack or a term says that the message need never be executed again, which stays true whoever has it.
- A nak is repeated before its own time only, and only where the attempt record knows that time: until then nobody
  executes the message, and whoever is handed it gives it back for the same time.

None is repeated once the lease has lapsed: a stream that was lost and made anew counts its messages from 1 again. That
the message is done is known for longer, since an outage may outlast a lease; the time at which the stream stored it
tells it from another one of its sequence.

Of each answer only that is kept which it takes to give it again and to know its message: some 400 bytes for an ack, and
no more than 4,096 answers.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import msgspec

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import ReplySubject
from diracx.tasks.plumbing.worker.leases import Lease

_KEPT: Final = 4096
"""More than a worker settles between two writes of the server."""


class _Answer(msgspec.Struct, frozen=True, gc=False):  # no cycle can go through it, and thousands live for long
    stored_ns: int
    reply: str
    deadline: float
    """Of the lease."""
    reason: str | None
    """Of a term; None: the message is acked, or given back."""
    not_before: datetime | None
    """For a nak, whose delay gets shorter; None: the message is acked or termed."""


class RecentAnswers:
    """What one worker told the server last, by sequence of the message.

    Args:
        clock: That of the leases.
    """

    def __init__(self, connection: Connection, clock: Clock = boottime) -> None:
        self._connection = connection
        self._clock = clock
        self._answers: OrderedDict[int, _Answer] = OrderedDict()

    def acked(self, lease: Lease) -> None:
        """Remember an ack."""
        self._keep(lease)

    def termed(self, lease: Lease, reason: str) -> None:
        """Remember a term."""
        self._keep(lease, reason=reason)

    def naked(self, lease: Lease, not_before: datetime) -> None:
        """Remember a nak whose time stands in the attempt record."""
        self._keep(lease, not_before=not_before)

    def ended(self, lease: Lease) -> bool:
        """Whether the message of a new lease was acked or termed here before."""
        known = self._answers.get(lease.delivery.sequence)
        return known is not None and known.not_before is None and known.stored_ns == lease.delivery.stored_ns

    def repeat(self) -> None:
        """Give them again, each while its lease holds. Without a connection, the next call does it."""
        now, today = self._clock(), datetime.now(UTC)
        for sequence, known in list(self._answers.items()):
            if known.not_before is not None and (known.deadline <= now or known.not_before <= today):
                del self._answers[sequence]
                continue
            if known.deadline > now:
                try:
                    self._send(known, today)
                except ServerUnavailableError:
                    return

    def _send(self, known: _Answer, today: datetime) -> None:
        subject = ReplySubject(self._connection, known.reply)
        if known.not_before is not None:
            subject.nak(known.not_before - today)
        elif known.reason is not None:
            subject.term(known.reason)
        else:
            subject.ack()

    def _keep(self, lease: Lease, *, reason: str | None = None, not_before: datetime | None = None) -> None:
        delivery = lease.delivery
        kept = _Answer(delivery.stored_ns, delivery.reply, lease.deadline, reason, not_before)
        self._answers[delivery.sequence] = kept
        self._answers.move_to_end(delivery.sequence)
        if len(self._answers) > _KEPT:
            self._answers.popitem(last=False)
