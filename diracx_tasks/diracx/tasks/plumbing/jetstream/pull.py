"""The pull: batches from three consumers in strict priority, and no message is held without a slot.

nats-py's `fetch` is not used:

* A cancelled `fetch` leaves its request live on the server, and the next message goes where nobody reads.
* A `fetch` across a restart of the server hangs for its whole timeout.
* A deleted consumer looks like an empty one.

Here every request has a visible end. A pull alternates between two steps:

    probe --- nothing came ---> wait --- first arrival, `wake` or 30 s ---> probe ...

**Probe.** A `no_wait` request asks the most urgent consumer for as many messages as the caller has
free slots for; the rest goes to the next consumer, and so on.

* The server answers a request with the messages that it has, then with a status (404 or 408) unless the batch was
  filled.
* A consumer that was empty less than 2 ms ago is skipped, unless all were. That saves a worker of few slots and short
  tasks every other round trip; a more urgent task waits at most 2 ms longer.
* A skipped consumer that was empty more than 1 ms ago is asked for a single message, out of the same slots, beside the
  request to the less urgent consumer. Mostly it is still empty; then it counts as empty for 2 ms more, at no round
  trip.
* A data message carries the subject of the stream, so only a status tells which request it ends. Each consumer has one
  request at a time, whose number is a token of the inbox, so that a late status ends no other request.

**Wait.** When all three consumers are empty, a long poll goes out on each of them, for no more messages than there are
slots (at least one each).

* The first arrival ends the others: their inboxes are unsubscribed, and the server drops a request whose inbox nobody
  listens to.
* A message that the server sent before it read the UNSUB is still delivered, because the local subscription stays until
  the server has answered a ping.
* A message that the server was about to send returns to its queue at once; its count of deliveries has risen.

**Wait on a cluster.** There a message may be on its way from the server that leads the consumer to the one that the
client is connected to. If the inbox is gone when it comes, nobody takes it, and it returns after `ack_wait` only. So
each long poll is for one message, and it is left standing when another one ends the wait:

* The next wait takes up the polls that still stand.
* A message that arrives between two waits is delivered like any other. So a worker that was idle may get one message of
  each less urgent consumer out of turn.
* A poll is withdrawn only at the end of the pull, and when its heartbeats are missed.

A message counts as delivered no earlier than its request was sent. That is a lower bound for the start of its lease.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from diracx.tasks.plumbing.background import wait_for_event
from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.jetstream.headers import (
    DESCRIPTION,
    HEARTBEAT,
    NO_MESSAGES,
    NO_RESPONDERS,
    TIMED_OUT,
    status_of,
)

logger = logging.getLogger("diracx.tasks.jetstream")

Deliver = Callable[[Delivery], None]
"""Accepts one delivery; must not block and must not raise."""

_PROBE_TIMEOUT_SECONDS: Final = 5.0
_HEARTBEAT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 30.0
_EMPTY_FOR_SECONDS: Final = 0.002
_ASK_BESIDE_SECONDS: Final = _EMPTY_FOR_SECONDS / 2
_NO_ANSWER: Final = "no answer"
RECONNECTED: Final = "reconnected"
"""The status of a request whose connection was lost and is there again."""
_SILENCE: Final = frozenset({_NO_ANSWER, RECONNECTED})
_EMPTY: Final = frozenset({NO_MESSAGES, TIMED_OUT})


def _describe(message: Received) -> str:
    status = status_of(message)
    if status == NO_RESPONDERS:
        return f"{status} nobody answers"  # the server names the subject, in a form that nats-py does not read
    return f"{status or '?'} {(message.headers or {}).get(DESCRIPTION, '')}".strip()


def _is_empty(status: str) -> bool:
    """Whether a status, with its description, says that the consumer has no message."""
    return status.partition(" ")[0] in _EMPTY


def _give_up(answer: asyncio.Future[str]) -> None:
    if not answer.done():
        answer.set_result(_NO_ANSWER)


class _Probe:
    """The `no_wait` requests to one consumer, one at a time, all on one inbox."""

    def __init__(self, connection: Connection, subject: str, deliver: Deliver, clock: Clock) -> None:
        self._connection = connection
        self._subject = subject
        self._deliver = deliver
        self._clock = clock
        self._number = 0
        self._missing = 0
        self._received = 0
        self._sent = 0.0
        self.emptied_at = -math.inf
        """The time at which it last had fewer messages than the request."""
        self._answer: asyncio.Future[str] | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._inbox = connection.client.new_inbox()
        self._subscription: Any = None

    async def start(self) -> None:
        self._subscription = await self._connection.client.listen(f"{self._inbox}.*", self._on_message)

    async def ask(self, batch: int) -> None:
        """Send a request for up to `batch` messages. Call `answered` next."""
        self._number += 1
        self._missing, self._received = batch, 0
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        self._sent = self._clock()
        await self._connection.publish(
            self._subject, b'{"batch":%d,"no_wait":true}' % batch, reply=f"{self._inbox}.{self._number}"
        )
        self._timeout = loop.call_later(_PROBE_TIMEOUT_SECONDS, _give_up, answer)

    async def answered(self) -> tuple[int, str]:
        """Wait for the end. Returns the number of messages, and the status that ended the request ("" if filled)."""
        assert self._answer is not None
        assert self._timeout is not None
        status = await self._answer
        self._answer = None
        self._timeout.cancel()
        if status == _NO_ANSWER:
            await self._renew_inbox()
        if _is_empty(status):
            self.emptied_at = self._clock()
        return self._received, status

    async def _renew_inbox(self) -> None:
        """Take a new inbox: a late message on the old one is older than the next request."""
        await self.stop()
        self._inbox = self._connection.client.new_inbox()
        await self.start()

    def abandon(self, why: str) -> None:
        """End the request in flight, because its answer will not come."""
        self._end(why)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._connection.client.leave(self._subscription)

    def _end(self, status: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def _on_message(self, message: Received) -> None:
        if message.raw_reply:
            self._received += 1
            self._missing -= 1
            self._deliver(Delivery(self._connection, message, self._sent))
            if self._missing <= 0:
                self._end("")
        elif message.raw_subject.endswith(b".%d" % self._number) and status_of(message) != HEARTBEAT:
            self._end(_describe(message))


class _LongPoll:
    """One waiting request on an inbox of its own, so that unsubscribing the inbox ends it."""

    def __init__(self, connection: Connection, deliver: Deliver, ended: Callable[[str], None], clock: Clock) -> None:
        self._connection = connection
        self._deliver = deliver
        self._ended = ended
        self._clock = clock
        self._sent = 0.0
        self._missing = 0
        self._subscription: Any = None
        self.is_open = True
        """Whether the server may still answer it."""
        self.last_contact = 0.0
        """The time of the latest message or heartbeat."""

    async def open(self, subject: str, batch: int) -> None:
        client = self._connection.client
        inbox = client.new_inbox()
        self._subscription = await client.listen(inbox, self._on_message)
        self._sent = self.last_contact = self._clock()
        self._missing = batch
        request = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            batch,
            int(_POLL_SECONDS * NANOSECONDS),
            int(_HEARTBEAT_SECONDS * NANOSECONDS),
        )
        await self._connection.publish(subject, request, reply=inbox)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._connection.client.leave(self._subscription)

    def _on_message(self, message: Received) -> None:
        self.last_contact = self._clock()
        if message.raw_reply:
            self._missing -= 1
            self.is_open = self._missing > 0
            self._deliver(Delivery(self._connection, message, self._sent))
            self._ended("")
        elif status_of(message) != HEARTBEAT:
            self.is_open = False
            self._ended(_describe(message))


class StrictPriorityPull:
    """Pulls from several consumers of one stream in strict priority.

    Args:
        consumers: Their names, the most urgent first.
        deliver: Called with each message, in order of arrival.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumers: Sequence[str],
        deliver: Deliver,
        clock: Clock = boottime,
    ) -> None:
        self._connection = connection
        self._deliver = deliver
        self._clock = clock
        self._subjects = [connection.api_subject(f"CONSUMER.MSG.NEXT.{stream}.{consumer}") for consumer in consumers]
        self._probes = [_Probe(connection, subject, deliver, clock) for subject in self._subjects]
        self._names = dict(zip(self._probes, consumers, strict=True))
        self.problems: dict[str, str] = {}
        """By consumer: the status of its latest answer, if that was neither messages nor "empty"."""
        self._polls: dict[str, _LongPoll] = {}
        """The long polls that wait on the server, by subject."""
        self._wake = asyncio.Event()
        self._why = ""
        self.last_answer: float | None = None
        """The time on the clock at which the server last answered a pull with messages or "empty"; None: never."""
        self.last_word: float | None = None
        """As `last_answer`, but any answer counts, a refusal too."""

    async def start(self) -> None:
        """Subscribe to the answers."""
        for probe in self._probes:
            await probe.start()
        self._connection.on_reconnect(self._on_reconnect)
        self._connection.on_permission_denied(self._on_denial)

    async def stop(self) -> None:
        """Unsubscribe. Returns once every message that the server sent has been delivered."""
        self._connection.remove_on_reconnect(self._on_reconnect)
        self._connection.remove_on_permission_denied(self._on_denial)
        await asyncio.gather(self._close_polls(lambda _: True), *(probe.stop() for probe in self._probes))

    def wake(self, why: str = "") -> None:
        """End a `wait` in progress; `wait` returns `why`."""
        self._why = why
        self._wake.set()

    async def probe(self, slots: int) -> tuple[int, str | None]:
        """Fetch up to `slots` messages without waiting, the most urgent first.

        Returns:
            The number of messages, and the status of a consumer that answered other than with messages or "empty". The
            others are asked all the same, unless no answer came at all.
        """
        now = self._clock()
        asked = [probe for probe in self._probes if now - probe.emptied_at > _EMPTY_FOR_SECONDS]
        more_urgent = self._probes[: self._probes.index(asked[0])] if asked else []
        beside = [probe for probe in more_urgent if now - probe.emptied_at > _ASK_BESIDE_SECONDS][: slots - 1]
        for probe in beside:
            await probe.ask(1)
        total, problem = await self._ask(asked, slots - len(beside))
        for probe in beside:
            count, problem_beside = await self._answer_of(probe)
            total += count
            problem = problem or problem_beside
        if not total and problem is None:
            skipped = [probe for probe in self._probes if probe not in asked and probe not in beside]
            total, problem = await self._ask(skipped, slots)
        return total, problem

    async def _ask(self, probes: Sequence[_Probe], slots: int) -> tuple[int, str | None]:
        total, first_problem = 0, None
        for probe in probes:
            await probe.ask(slots - total)
            self._connection.client.write_now()
            count, problem = await self._answer_of(probe)
            total += count
            first_problem = first_problem or problem
            if problem in _SILENCE or total >= slots:
                break
        return total, first_problem

    async def _answer_of(self, probe: _Probe) -> tuple[int, str | None]:
        count, status = await probe.answered()
        name = self._names[probe]
        if status and not _is_empty(status):
            self.problems[name] = status
            if status not in _SILENCE:
                self.last_word = self._clock()
            return count, status
        self.problems.pop(name, None)
        self.last_answer = self.last_word = self._clock()
        return count, None

    async def wait(self, slots: int) -> str:
        """Wait until a message arrives or `wake` is called, for 30 s at the most.

        The requests ask for `slots` messages together, or for one from each consumer if that is more.

        Returns:
            The reason for the end; "" for an arrival or an ordinary end of the 30 s.
        """
        self._wake.clear()
        self._why = ""
        try:
            await self._open_polls(slots)
            while not await wait_for_event(self._wake, _HEARTBEAT_SECONDS):
                for poll in self._polls.values():
                    if self._clock() - poll.last_contact > 2 * _HEARTBEAT_SECONDS:
                        poll.is_open = False
                        self.wake("missed heartbeats")
        finally:
            await self._close_polls(lambda poll: not (poll.is_open and self._connection.in_cluster))
        if _is_empty(self._why) or not self._why:
            self.last_answer = self.last_word = self._clock()
            return ""
        return self._why

    async def _open_polls(self, slots: int) -> None:
        count = len(self._subjects)
        share, rest = (1, 0) if self._connection.in_cluster else divmod(max(slots, count), count)
        await self._close_polls(lambda poll: not poll.is_open)
        for index, subject in enumerate(self._subjects):
            if subject not in self._polls:
                poll = self._polls[subject] = _LongPoll(self._connection, self._deliver, self.wake, self._clock)
                await poll.open(subject, share + rest if index == 0 else share)

    async def _close_polls(self, closes: Callable[[_LongPoll], bool]) -> None:
        closed = [subject for subject, poll in self._polls.items() if closes(poll)]
        await asyncio.gather(*(self._polls.pop(subject).close() for subject in closed))

    def _on_reconnect(self) -> None:
        for poll in self._polls.values():
            poll.is_open = False  # the server has dropped it with the connection
        for probe in self._probes:
            probe.abandon(RECONNECTED)
        self.wake(RECONNECTED)

    def _on_denial(self, denial: PermissionDeniedError) -> None:
        for probe, subject in zip(self._probes, self._subjects, strict=True):
            if subject.lower() == denial.subject:
                why = str(PermissionDeniedError(denial.action, subject))
                probe.abandon(why)
                self.wake(why)
