"""The latest answers of a worker, sent again after an outage of the server, or of the leader of a consumer.

The server writes the state of its consumers to disk about ten times a second, so a kill makes it forget the latest
answers. A forgotten ack lets a finished task be executed once more. After a forgotten nak the message comes when
`ack_wait` is over: too late for a short delay; for a long one too early, and `screen` sends it back. So after each
reconnect the latest answers are sent again. Where the server has forgotten the delivery too, it ignores them and
delivers the message anew; if that is to this worker, `was_finished` recognises it.

On a cluster nobody takes an answer while its consumer has no leader, 4 to 9 s after a kill, and the worker need not be
disconnected. So the latest answers are sent again to each new leader.

Answers are not fenced, and another worker may have the message by now. Resending is safe nevertheless:

- An ack or a term says that the message need never be executed again, which stays true whoever has it.
- A nak is resent only before its `not_before`, and only when the attempt record holds that time: until then no worker
  executes the message, and a worker that receives it gives it back for the same time.
- No answer is resent once the lease has lapsed: a stream that was lost and created anew counts its messages from 1
  again.
- That a message is finished is remembered for longer, because an outage may outlast a lease. `stored_ns` tells the
  message from another one of its sequence.

Crash points: none. The memory is lost with the process, and so is the reason to resend.

An entry holds only what resending and recognising need: some 280 bytes for an ack, and at most 4,096 entries.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery, ReplySubject
from diracx.tasks.plumbing.jetstream.hearing import listening
from diracx.tasks.plumbing.worker.leases import Lease

MAX_ANSWERS: Final = 4096
_LEAVE_AT_ONCE: Final = 256
"""Of the oldest, when there are too many. What is left is still more than a worker settles between two writes of the
server. A dict looks for its first key at the places of deleted ones as well, so they leave many at a time; an
OrderedDict need not, and takes 0.4 MB more."""

CONSUMER_LEADER_ELECTED: Final = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED"
"""Followed by the stream and the consumer; only a cluster sends it."""
TAKES_OVER_SECONDS: Final = 1.0
"""The time in which a new leader begins to take answers: it tells of its election a moment before."""


class _Answer(msgspec.Struct, frozen=True, gc=False):  # thousands live for long, and none is part of a cycle
    stored_ns: int
    reply: bytes
    deadline: float
    """The deadline of the lease."""
    reason: str | None
    """The reason of a term; None: an ack or a nak."""
    not_before: datetime | None
    """Set for a nak: its remaining delay is computed when it is sent again. None: an ack or a term."""


class AckReplay:
    """The latest answers of one worker, by sequence of the message.

    Args:
        clock: The clock of the leases.
    """

    def __init__(self, connection: Connection, clock: Clock = boottime) -> None:
        self._connection = connection
        self._clock = clock
        self._answers: dict[int, _Answer] = {}
        self._deadline = 0.0

    def record_ack(self, lease: Lease) -> None:
        """Remember an ack, to send it again and to recognise the message."""
        self._keep(lease.delivery, lease.deadline)

    def record_term(self, lease: Lease, reason: str) -> None:
        """Remember a term, to send it again and to recognise the message."""
        self._keep(lease.delivery, lease.deadline, reason)

    def record_nak(self, lease: Lease, not_before: datetime) -> None:
        """Remember a nak whose time the attempt record holds."""
        self._keep(lease.delivery, lease.deadline, None, not_before)

    def was_finished(self, lease: Lease) -> bool:
        """Whether this worker acked or termed the message on an earlier lease."""
        known = self._answers.get(lease.delivery.sequence)
        return known is not None and known.not_before is None and known.stored_ns == lease.delivery.stored_ns

    async def run(self, stream: str) -> None:
        """Send the answers again when a consumer of the stream has a new leader, until cancelled."""
        elected = asyncio.Event()
        async with listening(self._connection, f"{CONSUMER_LEADER_ELECTED}.{stream}.*", lambda _: elected.set()):
            while True:
                await elected.wait()
                await asyncio.sleep(TAKES_OVER_SECONDS)
                elected.clear()  # before: those that were elected in the last moment have not taken over
                self.resend()

    def resend(self) -> None:
        """Send each answer again whose lease holds. Without a connection it stops; the next reconnect sends all
        again."""
        now, server_time = self._clock(), self._connection.clock.now()
        for sequence, known in list(self._answers.items()):
            if known.not_before is not None and (known.deadline <= now or known.not_before <= server_time):
                del self._answers[sequence]
                continue
            if known.deadline > now:
                try:
                    self._send(known, server_time)
                except ServerUnavailableError:
                    return

    def _send(self, known: _Answer, server_time: datetime) -> None:
        subject = ReplySubject(self._connection, known.reply)
        if known.not_before is not None:
            subject.nak(known.not_before - server_time)
        elif known.reason is not None:
            subject.term(known.reason)
        else:
            subject.ack()

    def _keep(
        self, delivery: Delivery, deadline: float, reason: str | None = None, not_before: datetime | None = None
    ) -> None:
        answers, sequence = self._answers, delivery.sequence
        answers.pop(sequence, None)  # the latest answers are the last ones
        if deadline != self._deadline:  # all that came in answer to one request share it, and the object too
            self._deadline = deadline
        answers[sequence] = _Answer(delivery.stored_ns, delivery.reply, self._deadline, reason, not_before)
        if len(answers) > MAX_ANSWERS:
            for oldest in list(islice(answers, _LEAVE_AT_ONCE)):
                del answers[oldest]
