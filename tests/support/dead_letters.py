"""Dead letters without workers, and a connection on which a run dies, or somebody else acts, at a chosen point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from diracx.tasks.plumbing.dead_letters.reader import DeadLetterReader, Remains
from diracx.tasks.plumbing.dead_letters.replay import NotReplayableError, Replayer
from diracx.tasks.plumbing.dead_letters.store import DeadLetterStore
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.delivery import Delivery
from diracx.tasks.plumbing.jetstream.publish import publish
from diracx.tasks.plumbing.jetstream.stream_messages import StoredMessage, read_message, read_messages
from diracx.tasks.plumbing.wire.failure import Failure
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

BODY = b'{"owner_name":"alice"}'
HEADERS = {"Task-Name": "lollygag:SyncOwnersTask", "Task-Id": "abc", "Nats-Msg-Id": "abc"}


class KilledError(BaseException):
    """What a killed process does not do: it is caught by nothing but the test."""


@dataclass
class _Message:
    reply: str
    subject: str
    headers: dict[str, str] | None
    data: bytes


@dataclass
class Interposed:
    """A connection on which something happens at the n-th request: before it is sent, or once it is answered."""

    connection: Connection
    at: int
    happens: Callable[[], Awaitable[object]]
    after: bool = False
    requests: int = 0

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        return await self._do(self.connection.request, *args, **kwargs)

    async def api(self, *args: Any, **kwargs: Any) -> Any:
        return await self._do(self.connection.api, *args, **kwargs)

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
class Morgue:
    """The dead of one namespace."""

    connection: Connection
    names: Namespace
    buried: int = field(default=0)

    async def bury(
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
        self.buried += 1
        # Far from what the stream itself counts.
        sequence = 10_000_000 + self.buried if sequence is None else sequence
        stored_ns = time.time_ns() if stored_ns is None else stored_ns
        reply = f"$JS.ACK.S.C.1.{sequence}.1.{stored_ns}.0"
        message = _Message(reply, f"{self.names.name}.tasks.{queue}", headers, body)
        delivery = Delivery(self.connection, message, 0.0)
        await DeadLetterStore(self.connection, self.names).store(delivery, "over", 1, failures)

    async def advise(self, sequence: int, kind: str = "MAX_DELIVERIES", at: str = "2100-01-01T00:00:00Z") -> None:
        """Store an advisory, as the server would."""
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{self.names.tasks_stream}.normal-small"
        body = {"stream_seq": sequence, "consumer": "normal-small", "deliveries": 3, "timestamp": at}
        await publish(self.connection, subject, msgspec.json.encode(body), {})

    async def put(self, body: bytes = BODY, headers: dict[str, str] = HEADERS) -> int:
        """Put a task into its queue; return its sequence."""
        return (await publish(self.connection, f"{self.names.name}.tasks.normal.small", body, headers)).seq

    async def remains(self) -> list[Remains]:
        return await DeadLetterReader(self.connection, self.names).remains()

    async def replay_all(self, connection: Any = None) -> None:
        """One run of the command."""
        over = self.connection if connection is None else connection
        replayer = Replayer(over, self.names)
        await replayer.finish_earlier()
        for each in await DeadLetterReader(over, self.names).remains():
            try:
                await replayer.replay(each)
            except NotReplayableError as error:
                assert "replayed or purged meanwhile" in str(error)  # noqa: PT017

    async def put_back(self, count: int) -> list[StoredMessage]:
        """What replays have put into the queues so far, all of it; it must be so many."""
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

    async def notes(self) -> int:
        """How many replays are not finished."""
        notes = self.names.replay_subject("*", "*")
        return len([note async for note in self._stored(self.names.later_stream, notes)])

    async def letters(self) -> int:
        """Messages in the stream of dead letters, advisories included."""
        size = await DeadLetterReader(self.connection, self.names).size()
        assert size is not None
        return size

    async def task(self, sequence: int) -> StoredMessage | None:
        return await read_message(self.connection, self.names.tasks_stream, seq=sequence)

    def _stored(self, stream: str, subject: str) -> AsyncIterator[StoredMessage]:
        return read_messages(self.connection, stream, subject)
