"""Dead letters without a worker, and a connection on which something happens at a chosen request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from diracx.tasks.plumbing.dead_letters.dead_tasks import DeadTask, dead_tasks
from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError, Replayer
from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message, read_messages
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until
from support.deliveries import FakeMessage

BODY = b'{"owner_name":"alice"}'
HEADERS = {"Task-Name": "lollygag:SyncOwnersTask", "Task-Id": "abc", "Nats-Msg-Id": "abc"}


class KilledError(BaseException):
    """The run was killed. Only tests catch it."""


@dataclass
class Interposed:
    """A connection that calls `happens` at the `at`-th request: before it is sent, or after it is answered."""

    connection: Connection
    at: int
    happens: Callable[[], Awaitable[object]]
    after: bool = False
    requests: int = 0

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        return await self._do(self.connection.request, *args, **kwargs)

    async def api(self, *args: Any, **kwargs: Any) -> Any:
        return await self._do(self.connection.api, *args, **kwargs)

    async def publish(self, *args: Any, **kwargs: Any) -> Any:
        return await self._do(self.connection.publish, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What sends nothing is the connection's own."""
        return getattr(self.connection, name)

    async def send_request(self, *args: Any, **kwargs: Any) -> Any:
        async def send() -> Any:
            answer = await self.connection.send_request(*args, **kwargs)
            if self.after and self.requests == self.at:
                await asyncio.wait([answer])
            return answer

        return await self._do(send)

    async def _do(self, send: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        self.requests += 1
        now = self.requests == self.at
        if now and not self.after:
            await self.happens()
        try:
            return await send(*args, **kwargs)
        finally:
            if now and self.after:
                await self.happens()


async def die() -> None:
    raise KilledError


@dataclass
class DeadLetterBox:
    """Stores and reads the dead letters of one namespace."""

    connection: Connection
    names: Namespace
    _added: int = field(default=0)

    async def add(
        self,
        body: bytes = BODY,
        headers: dict[str, str] | None = HEADERS,
        *,
        queue: str = "normal.small",
        sequence: int | None = None,
        stored_ns: int | None = None,
        failures: tuple[Failure, ...] = (),
    ) -> None:
        """Store a dead letter, as a worker would."""
        self._added += 1
        # Far beyond the sequences of the task stream.
        sequence = 10_000_000 + self._added if sequence is None else sequence
        stored_ns = time.time_ns() if stored_ns is None else stored_ns
        reply = f"$JS.ACK.S.C.1.{sequence}.1.{stored_ns}.0"
        message = FakeMessage(reply.encode(), f"{self.names.name}.tasks.{queue}", headers, body)
        delivery = Delivery(self.connection, message, 0.0)
        await DeadLetterStore(self.connection, self.names).store(delivery, "over", 1, failures)

    async def fill(self, count: int, *, advised: bool = True) -> None:
        """Store `count` dead letters, each with the advisory that follows it."""
        for number in range(1_000, 1_000 + count):
            await self.add(sequence=number)
            if advised:
                await self.advise(number, "MSG_TERMINATED")

    async def advise(self, sequence: int, kind: str = "MAX_DELIVERIES", at: str = "2100-01-01T00:00:00Z") -> None:
        """Store an advisory, as the server would."""
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{self.names.tasks_stream}.normal-small"
        body = {"stream_seq": sequence, "consumer": "normal-small", "deliveries": 3, "timestamp": at}
        await publish(self.connection, subject, msgspec.json.encode(body), {})

    async def put(self, body: bytes = BODY, headers: dict[str, str] = HEADERS) -> int:
        """Put a task into its queue, and return its sequence."""
        return (await publish(self.connection, f"{self.names.name}.tasks.normal.small", body, headers)).seq

    async def dead_tasks(self) -> list[DeadTask]:
        return [task async for task in dead_tasks(self.connection, self.names)]

    async def replay_all(self, connection: Any = None) -> None:
        """One run of the command."""
        over = self.connection if connection is None else connection
        replayer = Replayer(over, self.names)
        await replayer.finish_earlier()
        async for each in dead_tasks(over, self.names):
            try:
                await replayer.replay(each)
            except NotReplayableError as error:
                assert "replayed or purged in the meantime" in str(error)  # noqa: PT017

    async def put_back(self, count: int) -> list[StoredMessage]:
        """The tasks that replays have put into the queues so far; there must be `count`."""
        due = [message async for message in self._stored(self.names.later_stream, f"{self.names.name}.due.>")]
        assert len(due) == count
        found: list[StoredMessage] = []

        async def arrived() -> bool:
            tasks = [message async for message in self._stored(self.names.tasks_stream, ">")]
            found[:] = [task for task in tasks if "Nats-Stream-Source" in task.headers]
            return len(found) >= count

        await wait_until(arrived, description=f"{count} tasks have arrived in their queues")
        assert len(found) == count
        return found

    async def markers(self) -> int:
        """The number of replays that are not finished."""
        markers = self.names.replay_subject("*", "*")
        return len([marker async for marker in self._stored(self.names.later_stream, markers)])

    async def letters(self) -> int:
        """The number of messages in the dead letter stream, advisories included."""
        size = await DeadLetterReader(self.connection, self.names).size()
        assert size is not None
        return size.messages

    async def task(self, sequence: int) -> StoredMessage | None:
        return await read_message(self.connection, self.names.tasks_stream, seq=sequence)

    def _stored(self, stream: str, subject: str) -> AsyncIterator[StoredMessage]:
        return read_messages(self.connection, stream, subject)
