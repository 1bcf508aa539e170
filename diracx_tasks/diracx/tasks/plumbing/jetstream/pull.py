"""Our own pull: batches from three consumers under strict priority, with nothing held that has no slot.

nats-py's `fetch` is not used: cancelled, it leaves its request live on the server, and the next message lands where
nobody reads; across a restart it hangs for its whole timeout; a deleted consumer looks like an empty one. Here every
request has an end that is seen.

**Probe.** A `no_wait` request on the most urgent consumer for all free slots; what it leaves goes to the next. A
consumer that was empty less than 2 ms ago is passed over, unless all are: for a worker of few slots and short tasks
that saves every other round trip, and a more urgent task waits those 2 ms longer at the most. One that was empty more
than 1 ms ago is asked for a single message, out of the same slots, beside the less urgent one that it is passed over
for: mostly it is empty still, known to be for 2 ms more, and cost no round trip. The server answers a request with the
messages it has, then with a status (404, or 408) unless the batch was filled. Data messages carry the stream's subject,
so only statuses tell which request they end; there is one request at a time on a consumer, and its number is a token of
the inbox, so that a late status ends nothing else.

**Wait.** When all three are empty, long polls go out on all of them, for no more messages than there are slots (at
least one each). The first arrival ends the others: their inboxes are unsubscribed, and the server drops a request
whose inbox nobody listens to. What it sent before it heard so is still delivered, because the local subscription stays
until the server has answered a ping. What it was just about to send goes back to its queue at once; its count of
deliveries has risen all the same.

A message counts as delivered no earlier than its request was sent, which bounds its lease from below.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from nats.aio.msg import Msg

from diracx.tasks.plumbing.clock import Clock, boottime
from diracx.tasks.plumbing.jetstream.assets import NANOSECONDS
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery

logger = logging.getLogger("diracx.tasks.jetstream")

Deliver = Callable[[Delivery], None]
"""Takes a message in hand; must not block and must not raise."""

_PROBE_TIMEOUT: Final = 5.0
_HEARTBEAT: Final = 5.0
_POLL_EXPIRES: Final = 30.0
_STILL_EMPTY: Final = 0.002
_LOOK_AGAIN: Final = _STILL_EMPTY / 2
_NO_ANSWER: Final = "no answer"
_EMPTY: Final = frozenset({"404", "408"})


def _status(message: Msg) -> str:
    return (message.headers or {}).get("Status", "")


def _describe(message: Msg) -> str:
    headers = message.headers or {}
    return f"{headers.get('Status', '?')} {headers.get('Description', '')}".strip()


def _give_up(answer: asyncio.Future[str]) -> None:
    if not answer.done():
        answer.set_result(_NO_ANSWER)


class _Probe:
    """The `no_wait` requests on one consumer, one at a time, on one inbox for good."""

    def __init__(self, connection: Connection, subject: str, deliver: Deliver, clock: Clock) -> None:
        self._connection = connection
        self._subject = subject
        self._deliver = deliver
        self._clock = clock
        self._number = 0
        self._missing = 0
        self._received = 0
        self._sent = 0.0
        self.emptied = -math.inf
        """When it last had fewer messages than were asked for."""
        self._answer: asyncio.Future[str] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._inbox = connection.client.new_inbox()
        self._subscription: Any = None

    async def start(self) -> None:
        self._subscription = await self._connection.client.listen(f"{self._inbox}.*", self._on_message)

    async def ask(self, batch: int) -> None:
        """Ask for up to `batch` messages; to be followed by `answered`."""
        self._number += 1
        self._missing, self._received = batch, 0
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        self._sent = self._clock()
        await self._connection.publish(
            self._subject, b'{"batch":%d,"no_wait":true}' % batch, reply=f"{self._inbox}.{self._number}"
        )
        self._patience = loop.call_later(_PROBE_TIMEOUT, _give_up, answer)

    async def answered(self) -> tuple[int, str]:
        """How many messages came, and the status that ended it ("" if filled)."""
        assert self._answer is not None
        assert self._patience is not None
        status = await self._answer
        self._answer = None
        self._patience.cancel()
        if status == _NO_ANSWER:
            await self._move()
        if status.split(" ", 1)[0] in _EMPTY:
            self.emptied = self._clock()
        return self._received, status

    async def _move(self) -> None:
        """Take a new inbox: what the old one still brings was sent before the next request."""
        await self.stop()
        self._inbox = self._connection.client.new_inbox()
        await self.start()

    def abandon(self, why: str) -> None:
        """End the request in flight: the connection that carried it is gone."""
        self._end(why)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._connection.client.leave(self._subscription)

    def _end(self, status: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def _on_message(self, message: Msg) -> None:
        if message.reply:
            self._received += 1
            self._missing -= 1
            self._deliver(Delivery(self._connection, message, self._sent))
            if self._missing <= 0:
                self._end("")
        elif message.subject.endswith(f".{self._number}") and _status(message) != "100":
            self._end(_describe(message))


class _LongPoll:
    """One waiting request on an inbox of its own, so that leaving the inbox ends it."""

    def __init__(self, connection: Connection, deliver: Deliver, ended: Callable[[str], None], clock: Clock) -> None:
        self._connection = connection
        self._deliver = deliver
        self._ended = ended
        self._clock = clock
        self._sent = 0.0
        self._subscription: Any = None
        self.seen = 0.0

    async def open(self, subject: str, batch: int) -> None:
        client = self._connection.client
        inbox = client.new_inbox()
        self._subscription = await client.listen(inbox, self._on_message)
        self._sent = self.seen = self._clock()
        request = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (
            batch,
            int(_POLL_EXPIRES * NANOSECONDS),
            int(_HEARTBEAT * NANOSECONDS),
        )
        await self._connection.publish(subject, request, reply=inbox)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._connection.client.leave(self._subscription)

    def _on_message(self, message: Msg) -> None:
        self.seen = self._clock()
        if message.reply:
            self._deliver(Delivery(self._connection, message, self._sent))
            self._ended("")
        elif _status(message) != "100":
            self._ended(_describe(message))


class StrictPriorityPull:
    """Pulls from several consumers of one stream, the first one first.

    Args:
        consumers: From the most to the least urgent.
        deliver: Called for each message, in order of arrival.
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
        self._subjects = [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}" for consumer in consumers]
        self._probes = [_Probe(connection, subject, deliver, clock) for subject in self._subjects]
        self._wake = asyncio.Event()
        self._why = ""
        self.last_answer: float | None = None
        """When the server last answered a pull, on the clock."""

    async def start(self) -> None:
        """Listen for answers."""
        for probe in self._probes:
            await probe.start()
        self._connection.on_reconnect(self._on_reconnect)

    async def stop(self) -> None:
        """Stop listening, once everything that the server sent has been delivered."""
        self._connection.remove_on_reconnect(self._on_reconnect)
        await asyncio.gather(*(probe.stop() for probe in self._probes))

    def wake(self, why: str = "") -> None:
        """End a `wait` in progress."""
        self._why = why
        self._wake.set()

    async def probe(self, slots: int) -> tuple[int, str | None]:
        """Take what is there for up to `slots` messages, the most urgent first.

        Returns:
            How many came, and what is wrong where a consumer answered other than with messages or "empty".
        """
        now = self._clock()
        asked = [probe for probe in self._probes if now - probe.emptied > _STILL_EMPTY]
        more_urgent = self._probes[: self._probes.index(asked[0])] if asked else []
        beside = [probe for probe in more_urgent if now - probe.emptied > _LOOK_AGAIN][: slots - 1]
        for probe in beside:
            await probe.ask(1)
        total, problem = await self._ask(asked, slots - len(beside))
        for probe in beside:
            count, problem_beside = await self._answer_of(probe)
            total += count
            problem = problem or problem_beside
        if not total and problem is None:
            passed_over = [probe for probe in self._probes if probe not in asked and probe not in beside]
            total, problem = await self._ask(passed_over, slots)
        return total, problem

    async def _ask(self, probes: Sequence[_Probe], slots: int) -> tuple[int, str | None]:
        total = 0
        for probe in probes:
            await probe.ask(slots - total)
            self._connection.client.write_now()
            count, problem = await self._answer_of(probe)
            total += count
            if problem or total >= slots:
                return total, problem
        return total, None

    async def _answer_of(self, probe: _Probe) -> tuple[int, str | None]:
        count, status = await probe.answered()
        if status and status.split(" ", 1)[0] not in _EMPTY:
            return count, status
        self.last_answer = self._clock()
        return count, None

    async def wait(self, slots: int) -> str:
        """Wait until a message arrives, for 30 s at the most, or until `wake`.

        Never asks for more than `slots` messages together, or for one from each consumer where that is more.

        Returns:
            Why it ended other than by an arrival, "" otherwise.
        """
        self._wake.clear()
        self._why = ""
        polls = [_LongPoll(self._connection, self._deliver, self.wake, self._clock) for _ in self._subjects]
        share, rest = divmod(max(slots, len(polls)), len(polls))
        try:
            for index, (poll, subject) in enumerate(zip(polls, self._subjects, strict=True)):
                await poll.open(subject, share + rest if index == 0 else share)
            while not self._wake.is_set():
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        await self._wake.wait()
                except TimeoutError:
                    if self._clock() - min(poll.seen for poll in polls) > 2 * _HEARTBEAT:
                        self.wake("missed heartbeats")
        finally:
            await asyncio.gather(*(poll.close() for poll in polls))
        if self._why.split(" ", 1)[0] in _EMPTY or not self._why:
            self.last_answer = self._clock()
            return ""
        return self._why

    def _on_reconnect(self) -> None:
        for probe in self._probes:
            probe.abandon("reconnected")
        self.wake("reconnected")
