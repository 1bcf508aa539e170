"""NATS micro services (ADR-32): operators can list, describe and measure each process of a service.

`nats micro ls`, `info` and `stats` ask on `$SRV.<verb>[.<name>[.<id>]]`, and each process of the service answers for
itself. The services of nats-py do not fit: they count requests to endpoints, while the work here arrives through pull
consumers and is counted by the worker; and they give themselves random ids, while a worker has an id already.

A service may have further verbs, which only this project asks. Whoever does not know a verb does not answer it.

No other part depends on this. A process whose user may not subscribe there works as well; it is only not listed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.connection.request_inbox import is_no_responders
from diracx.tasks.plumbing.jetstream.errors import PermissionDeniedError
from diracx.tasks.plumbing.wire.names import escape
from diracx.tasks.plumbing.wire.times import to_rfc3339

logger = logging.getLogger("diracx.tasks.jetstream")

PREFIX: Final = "$SRV"
_QUIET_SECONDS: Final = 0.4
"""A question ends when no further answer has come for this long."""
_MAX_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """The work of a service so far, as its endpoint reports it."""

    requests: int = 0
    """Completed deliveries."""
    errors: int = 0
    last_error: str = ""
    processing_ns: int = 0
    """The processing time of all deliveries together, in nanoseconds."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Further values, as JSON."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process of a service.

    Args:
        name: The name of the service, the same for all its processes: letters, digits, `-` and `_`.
        id: The id of this process.
        subject: The subject that its endpoint works on.
        queue_group: The processes that share this work.
        stats: Called at each request for statistics.
        questions: Further verbs. Each is given the body of the request, and gives further fields of the answer, as
            JSON; a request that it cannot read raises `msgspec.MsgspecError`, and is not answered.
    """

    name: str
    id: str
    version: str
    description: str
    metadata: Mapping[str, str]
    endpoint: str
    subject: str
    queue_group: str
    stats: Callable[[], ServiceStats]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    questions: Mapping[str, Callable[[bytes], Mapping[str, Any]]] = field(default_factory=dict)

    def answer(self, verb: str, request: bytes = b"") -> bytes | None:
        """The answer to one verb as JSON; None for a verb that this service does not have."""
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
                answer |= {"started": to_rfc3339(self.started), "endpoints": [endpoint | _stats_fields(self.stats())]}
            case _ if verb in self.questions:
                try:
                    answer |= self.questions[verb](request)
                except msgspec.MsgspecError as error:
                    logger.debug("a question %s cannot be read: %s", verb, error)
                    return None
            case _:
                return None
        return msgspec.json.encode(answer)


def _stats_fields(stats: ServiceStats) -> dict[str, Any]:
    return {
        "num_requests": stats.requests,
        "num_errors": stats.errors,
        "last_error": stats.last_error,
        "processing_time": stats.processing_ns,
        "average_processing_time": stats.processing_ns // stats.requests if stats.requests else 0,
        "data": stats.data,
    }


@asynccontextmanager
async def serving(connection: Connection, service: Service) -> AsyncIterator[None]:
    """Answer for `service` until the end of the block."""
    answers: set[asyncio.Task[None]] = set()

    def receive(message: Received) -> None:
        answer = service.answer(message.subject.split(".")[1], message.data)
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


async def ask_all(
    connection: Connection,
    name: str,
    verb: str = "STATS",
    request: bytes = b"",
    *,
    shape: type[msgspec.Struct] | None = None,
) -> list[dict[str, Any]] | None:
    """Ask every process of a service, and collect the answers of the next two seconds at most.

    Args:
        verb: `PING`, `INFO`, `STATS`, or one of the `questions` of the service.
        request: What a question asks.
        shape: What each answer has to be convertible to; None: any object with an `id`.

    Returns:
        The answers, sorted by id; an answer of another shape is left out. None: this user may not ask.

    Raises:
        NotConnectedError: Nothing was sent.
    """
    subject, inbox = f"{PREFIX}.{verb}.{name}", connection.client.new_inbox()
    answers = _Answers({subject.lower(), inbox.lower()}, shape)
    connection.on_permission_denied(answers.deny)
    subscription = await connection.client.listen(inbox, answers.receive)
    try:
        await connection.publish(subject, request, reply=inbox)
        allowed = await answers.until_quiet()
    finally:
        connection.remove_on_permission_denied(answers.deny)
        await connection.client.leave(subscription)
    return [answers.found[each] for each in sorted(answers.found)] if allowed else None


def endpoint_data(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a process of ours tells in its answer to `STATS`, beyond what all services tell."""
    data: Mapping[str, Any] = answer["endpoints"][0]["data"]
    return data


class _Answers:
    """The answers to one question.

    Args:
        subjects: The subjects on which a denial ends the question, in lower case.
        shape: See `ask_all`.
    """

    def __init__(self, subjects: set[str], shape: type[msgspec.Struct] | None) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self._subjects, self._shape = subjects, shape
        self._arrival = asyncio.Event()
        self._ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def receive(self, message: Received) -> None:
        if is_no_responders(message):
            return self._end(allowed=True)
        try:
            answer = msgspec.json.decode(message.data, type=dict[str, Any])
            if self._shape is not None:
                msgspec.convert(answer, self._shape)
            self.found[str(answer["id"])] = answer
        except (msgspec.MsgspecError, KeyError, RecursionError) as error:
            logger.debug("a message to %s was no answer: %s", message.subject, error)
        return self._arrival.set()

    def deny(self, denial: PermissionDeniedError) -> bool:
        """Returns whether the denial is of this question: then whoever asks gets it, and decides whether it matters."""
        if denial.subject not in self._subjects:
            return False
        self._end(allowed=False)
        return True

    def _end(self, *, allowed: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(allowed)

    async def until_quiet(self) -> bool:
        """Wait while answers arrive. Returns whether the question was allowed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _MAX_SECONDS
        while not self._ended.done() and (remaining := deadline - loop.time()) > 0:
            self._arrival.clear()
            arrival = asyncio.create_task(self._arrival.wait(), name="an answer arrives")
            either: list[asyncio.Future[Any]] = [arrival, self._ended]
            # Where nobody listens the server says so at once. Else the first answer may come late from a busy machine.
            timeout = min(remaining, _QUIET_SECONDS) if self.found else remaining
            try:
                done, _ = await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            finally:
                arrival.cancel()
            if not done:
                break
        return self._ended.result() if self._ended.done() else True
