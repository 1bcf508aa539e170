"""NATS micro services (ADR-32): a process that can be listed, described and asked for figures by its operators.

`nats micro ls`, `info` and `stats` ask on `$SRV.<verb>[.<name>[.<id>]]`, and every process of the service answers for
itself. nats-py's own services were not taken: they count requests to endpoints, and what works here are pull
consumers, whose figures are ours to tell; and they name themselves at random where a worker has a name already.

Nothing rests on any of this. A process whose user may not subscribe there works as well; it is only not seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from nats.aio.msg import Msg

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.wire.names import escape
from diracx.tasks.plumbing.wire.times import to_rfc3339

logger = logging.getLogger("diracx.tasks.jetstream")

PREFIX: Final = "$SRV"
_NO_RESPONDERS: Final = "503"
_BETWEEN_ANSWERS: Final = 0.4
_ALL_ANSWERS: Final = 2.0

Verb = Literal["PING", "INFO", "STATS"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What a service has done so far, as its endpoint tells it."""

    requests: int = 0
    """Deliveries carried to an end."""
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    """All of them together, in nanoseconds."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Anything else, as JSON."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process of a service.

    Args:
        name: Of the service, the same for all its processes: letters, digits, `-` and `_`.
        id: Of this process.
        subject: What its endpoint works on.
        queue_group: Who shares that work.
        figures: Asked at each request for them.
    """

    name: str
    id: str
    version: str
    description: str
    metadata: Mapping[str, str]
    endpoint: str
    subject: str
    queue_group: str
    figures: Callable[[], Figures]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def answer(self, verb: str) -> bytes | None:
        """The answer to one verb as JSON; None for one that ADR-32 does not know."""
        answer: dict[str, Any] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": self.name,
            "id": escape(self.id),
            "version": self.version,
            "metadata": self.metadata,
        }
        endpoint = {"name": self.endpoint, "subject": self.subject, "queue_group": self.queue_group}
        match verb:
            case "PING":
                pass
            case "INFO":
                answer |= {"description": self.description, "endpoints": [{**endpoint, "metadata": {}}]}
            case "STATS":
                answer |= {"started": to_rfc3339(self.started), "endpoints": [endpoint | _told(self.figures())]}
            case _:
                return None
        return msgspec.json.encode(answer)


def _told(figures: Figures) -> dict[str, Any]:
    return {
        "num_requests": figures.requests,
        "num_errors": figures.errors,
        "last_error": figures.last_error,
        "processing_time": figures.processing_ns,
        "average_processing_time": figures.processing_ns // figures.requests if figures.requests else 0,
        "data": figures.data,
    }


@asynccontextmanager
async def serving(connection: Connection, service: Service) -> AsyncIterator[None]:
    """Answer for `service` until the end of the block."""
    answers: set[asyncio.Task[None]] = set()

    def receive(message: Msg) -> None:
        answer = service.answer(message.subject.split(".")[1])
        if answer is not None and message.reply:
            sending = asyncio.create_task(_send(connection, message.reply, answer), name=f"answer {message.subject}")
            answers.add(sending)
            sending.add_done_callback(answers.discard)

    every = f"{PREFIX}.*"
    subjects = (every, f"{every}.{service.name}", f"{every}.{service.name}.{escape(service.id)}")
    subscriptions = [await connection.client.listen(subject, receive) for subject in subjects]
    try:
        yield
    finally:
        for subscription in subscriptions:
            await connection.client.leave(subscription)
        for sending in answers:
            sending.cancel()


async def _send(connection: Connection, reply: str, answer: bytes) -> None:
    try:
        await connection.publish(reply, answer)
    except ServerError as error:
        logger.debug("an operator's question was not answered: %s", error)


async def ask_all(connection: Connection, name: str, verb: Verb = "STATS") -> list[dict[str, Any]] | None:
    """Ask every process of a service; what answers within a moment.

    Returns:
        The answers, by id; an answer that is no JSON object is left out. None: this user may not ask.

    Raises:
        NotConnectedError: Nothing was sent.
    """
    asked, inbox = f"{PREFIX}.{verb}.{name}", connection.client.new_inbox()
    answers = _Answers({asked.lower(), inbox.lower()})
    connection.on_permission_denied(answers.denied)
    subscription = await connection.client.listen(inbox, answers.receive)
    try:
        await connection.publish(asked, reply=inbox)
        allowed = await answers.until_quiet()
    finally:
        connection.remove_on_permission_denied(answers.denied)
        await connection.client.leave(subscription)
    return [answers.found[each] for each in sorted(answers.found)] if allowed else None


class _Answers:
    """What comes of one question.

    Args:
        subjects: Where a denial ends it, in lower case.
    """

    def __init__(self, subjects: set[str]) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._subjects = subjects
        self._came = asyncio.Event()
        self._ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def receive(self, message: Msg) -> None:
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            return self._end(allowed=True)
        try:
            answer = msgspec.json.decode(message.data, type=dict[str, Any])
            self.found[str(answer["id"])] = answer
        except (msgspec.MsgspecError, KeyError):
            logger.debug("what came to %s was no answer", message.subject)
        return self._came.set()

    def denied(self, denial: PermissionDeniedError) -> None:
        if denial.subject in self._subjects:
            self._end(allowed=False)

    def _end(self, *, allowed: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(allowed)

    async def until_quiet(self) -> bool:
        """Wait while answers come; whether the question was allowed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ALL_ANSWERS
        while not self._ended.done() and (left := deadline - loop.time()) > 0:
            self._came.clear()
            coming = asyncio.create_task(self._came.wait())
            either: list[asyncio.Future[Any]] = [coming, self._ended]
            patience = min(left, _BETWEEN_ANSWERS)
            done, _ = await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            coming.cancel()
            if not done:
                break
        return self._ended.result() if self._ended.done() else True
