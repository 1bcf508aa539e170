"""The latest answers of a worker, given again after an outage.

The server writes what its consumers know about ten times a second, so a kill makes it forget what it was told last. A
forgotten ack lets a task that is done be executed once more; a forgotten nak lets a retry come when `ack_wait` has run
out, up to that much after its time. So after each reconnect the latest answers are given again. Where the server has
forgotten the delivery, too, it ignores them and hands the message out anew; when that is to this worker, it knows.

Answers are not fenced, and somebody else may have the message by now. That does no harm:

- An ack or a term says that the message need never be executed again, which stays true whoever has it.
- A nak is repeated before its own time only, and only where the attempt record knows that time: until then nobody
  executes the message, and whoever is handed it gives it back for the same time.

None is repeated once the lease has lapsed: a stream that was lost and made anew counts its messages from 1 again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.leases import Lease

_KEPT: Final = 4096
"""More than a worker settles between two writes of the server."""


class _Answer(NamedTuple):
    lease: Lease
    again: Callable[[], Awaitable[None]]
    is_final: bool


class RecentAnswers:
    """What one worker told the server last, by sequence of the message."""

    def __init__(self) -> None:
        self._answers: OrderedDict[int, _Answer] = OrderedDict()

    def acked(self, lease: Lease) -> None:
        """Remember an ack."""
        self._keep(_Answer(lease, lease.delivery.ack, True))

    def termed(self, lease: Lease, reason: str) -> None:
        """Remember a term."""
        self._keep(_Answer(lease, partial(lease.delivery.term, reason), True))

    def naked(self, lease: Lease, not_before: datetime) -> None:
        """Remember a nak whose time stands in the attempt record."""
        self._keep(_Answer(lease, partial(self._nak, lease, not_before), False))

    def ended(self, lease: Lease) -> bool:
        """Whether the message of a new lease was acked or termed here before."""
        answer = self._answers.get(lease.delivery.sequence)
        return answer is not None and answer.is_final and answer.lease.delivery.stored_ns == lease.delivery.stored_ns

    async def repeat(self) -> None:
        """Give them again, each while its lease holds. Without a connection, the next call does it."""
        for answer in list(self._answers.values()):
            if answer.lease.remaining <= 0:
                continue
            try:
                await answer.again()
            except ServerUnavailableError:
                return

    def _keep(self, answer: _Answer) -> None:
        delivery = answer.lease.delivery
        delivery.body = b""  # settled: nobody reads it again, and thousands of them would be kept
        self._answers[delivery.sequence] = answer
        self._answers.move_to_end(delivery.sequence)
        if len(self._answers) > _KEPT:
            self._answers.popitem(last=False)

    @staticmethod
    async def _nak(lease: Lease, not_before: datetime) -> None:
        rest = not_before - datetime.now(UTC)
        if rest > timedelta(0):
            await lease.delivery.nak(rest)
