"""Publishing into a stream with the server's acknowledgement: one message, or an atomic batch.

An atomic batch (ADR-50) stores several messages in one stream, or none of them. Each message carries `Nats-Batch-Id`
and its place in `Nats-Batch-Sequence`, the last one `Nats-Batch-Commit`.

* The server stages the messages until the commit, checks every expected sequence, and only then stores them.
* The server drops a batch whose commit does not come within ten seconds. Until then it counts among the 50 that a
  stream takes at a time.
* So a publisher that crashes at any point leaves the stream unchanged, or with the whole batch in it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar
from uuid import uuid4

import msgspec

from diracx.tasks.plumbing.exceptions import SendTaskError, ServerError, ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.elections import ANSWER_SECONDS, ELECTION_SECONDS, RETRY_SECONDS
from diracx.tasks.plumbing.jetstream.connection.incoming import Received
from diracx.tasks.plumbing.jetstream.errors import (
    BATCH_INCOMPLETE,
    ID_IN_PROCESS,
    STORE_FAILED,
    STREAM_NOT_FOUND,
    TOO_MANY_BATCHES,
    WHERE_TO_LOOK,
    WRITE_IN_PROCESS,
    ApiError,
    NoLeaderError,
    NoRespondersError,
    NotConnectedError,
    RequestTimeoutError,
    stream_full_text,
)
from diracx.tasks.plumbing.jetstream.headers import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE

T = TypeVar("T")

MAX_BATCH_MESSAGES: Final = 1_000
"""The largest batch that the server accepts."""

MISSING_SECONDS: Final = 2.0
"""How long a stream that does not exist may take to come. A worker or scheduler that starts creates it."""
_FIRST_TRY_SECONDS: Final = 2.0
"""In a cluster the first try gets this long, and each further one twice as long as the one before."""
_LOOK_SECONDS: Final = 1.0
"""How long a look at a stream takes that nobody answers for."""


_PASSING: Final = frozenset({BATCH_INCOMPLETE, ID_IN_PROCESS, TOO_MANY_BATCHES, WRITE_IN_PROCESS})
"""Refusals that end by themselves. Nothing was stored."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """The server's acknowledgement of a stored message."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    """True: a message with this `Nats-Msg-Id` was stored before, within the stream's duplicate window."""
    error: _Error | None = None


_decoder = msgspec.json.Decoder(PubAck)


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """One message of a batch. Each may carry `Nats-Expected-Last-Subject-Sequence` for its own subject."""

    subject: str
    body: bytes
    headers: dict[str, str]


async def publish(
    connection: Connection,
    subject: str,
    body: bytes,
    headers: Mapping[str, str] | bytes,
    *,
    timeout: float | None = None,
) -> PubAck:
    """Publish one message and wait for its acknowledgement.

    In a cluster it is tried again while nobody takes it: nothing was stored, and the stream may be electing a leader.

    Args:
        headers: Bytes: as `header_block` makes them.
        timeout: Seconds for all tries. None: 5 for the answer, and in a cluster 10 until somebody takes it.

    Raises:
        NoRespondersError: Nobody took it in time; it was not stored.
        ServerUnavailableError: No answer; the message may have been stored.
        ApiError: The server refused the message.
    """

    if timeout is None and not connection.in_cluster:  # where most are taken at the first try
        answer = await connection.request(subject, body, headers=headers)
        try:
            return _read_ack(answer.data, subject)
        except ApiError as error:
            if not _ends_by_itself(error):
                raise

    async def send(seconds: float) -> PubAck:
        answer = await connection.request(subject, body, headers=headers, timeout=seconds)
        return _read_ack(answer.data, subject)

    return await _until_taken(connection, subject, send, timeout)


async def publish_batch(
    connection: Connection, messages: Sequence[BatchMessage], *, timeout: float | None = None
) -> PubAck:
    """Store all `messages`, in order and with consecutive sequences, or none of them.

    While others have begun as many batches as the stream takes at a time, it is tried again; in a cluster also while
    the stream elects a leader, of which nothing was stored either.

    Args:
        timeout: As for `publish`.

    Returns:
        The acknowledgement of the commit; its `seq` is the sequence of the last message.

    Raises:
        NoRespondersError: Nobody took it in time; nothing was stored.
        ApiError: The server refused the batch, e.g. `WRONG_LAST_SEQUENCE`; nothing was stored.
        ServerUnavailableError: No answer; all messages were stored, or none.
        ValueError: The batch is empty, or larger than `MAX_BATCH_MESSAGES`.
    """
    if not 0 < len(messages) <= MAX_BATCH_MESSAGES:
        raise ValueError(f"a batch has 1 to {MAX_BATCH_MESSAGES} messages, not {len(messages)}")

    async def send(seconds: float) -> PubAck:
        try:
            async with asyncio.timeout(seconds):
                return await _commit(connection, messages, _batch_headers(messages, uuid4().hex))
        except TimeoutError:
            raise RequestTimeoutError(messages[-1].subject, seconds) from None

    return await _until_taken(connection, messages[-1].subject, send, timeout)


async def _until_taken(
    connection: Connection, subject: str, send: Callable[[float], Awaitable[PubAck]], timeout: float | None
) -> PubAck:
    """Send until the stream takes it or refuses it; `send` gets the seconds for the answer to one try."""
    clock = asyncio.get_running_loop().time
    seconds = timeout or (ELECTION_SECONDS if connection.in_cluster else ANSWER_SECONDS)
    deadline = clock() + seconds
    while True:
        remaining = deadline - clock()
        try:
            return await send(max(remaining if timeout else min(remaining, ANSWER_SECONDS), RETRY_SECONDS))
        except NoRespondersError as error:
            if not connection.in_cluster:
                raise
            if deadline - clock() <= RETRY_SECONDS:
                raise NoRespondersError(error.subject, seconds) from None
        except ApiError as error:
            if not _ends_by_itself(error):
                raise
            if deadline - clock() <= RETRY_SECONDS:
                if error.err_code == ID_IN_PROCESS:  # of an earlier try, for which the replicas have not answered
                    raise RequestTimeoutError(subject, seconds, in_cluster=True) from None
                raise
        await asyncio.sleep(random.uniform(RETRY_SECONDS / 2, RETRY_SECONDS))


async def until_answered(
    connection: Connection,
    stream: str,
    subject: str,
    send: Callable[[float], Awaitable[T]],
    *,
    timeout: float,
    what: str = "the task",
) -> T:
    """Publish until the server answers. What is sent must be stored once, however often it is sent.

    An election of a leader is waited out. A stream that is missing is told after `MISSING_SECONDS`.

    Args:
        stream: The stream that takes the subject, for the errors, as is `what`.
        send: Publishes within the seconds that it is given.
        timeout: The limit for all tries, reconnects included, in seconds.

    Raises:
        SendTaskError: The server did not store it, or did not answer in time.
    """
    clock = asyncio.get_running_loop().time
    begun, longest_try = clock(), _FIRST_TRY_SECONDS
    while True:
        remaining = max(begun + timeout - clock(), 0)
        try:
            # A try that got lost with a leader is not waited for until the end.
            return await send(max(min(remaining, longest_try) if connection.in_cluster else remaining, 0.1))
        except NotConnectedError as error:
            if not await connection.wait_connected(remaining):
                raise SendTaskError(f"{subject} did not take {what}: {error}") from error
        except ServerError as error:
            if (
                text := await _why_given_up(connection, stream, subject, what, error, clock() - begun, timeout)
            ) is not None:
                raise SendTaskError(text) from error
            longest_try *= 2
            await asyncio.sleep(RETRY_SECONDS)


async def _why_given_up(
    connection: Connection, stream: str, subject: str, what: str, error: ServerError, waited: float, timeout: float
) -> str | None:
    """Why it is not tried again after `waited` seconds, and what to do; None: it is."""
    over = timeout if waited >= timeout else None
    if isinstance(error, NoRespondersError | RequestTimeoutError):
        if waited < min(MISSING_SECONDS, timeout):
            return None
        return await _why_not_taken(connection, stream, subject, what, error, over)
    return None if _ends_by_itself(error) and over is None else _refusal_text(stream, subject, what, error)


def _ends_by_itself(error: ServerError) -> bool:
    return isinstance(error, ApiError) and error.err_code in _PASSING


def _refusal_text(stream: str, subject: str, what: str, error: ServerError) -> str:
    if isinstance(error, ApiError) and error.err_code == STORE_FAILED:
        return stream_full_text(stream, error.description)
    return f"{subject} did not take {what}: {error}"


async def _why_not_taken(
    connection: Connection, stream: str, subject: str, what: str, error: ServerError, waited: float | None
) -> str | None:
    """Why nothing was stored, and what to do; None: the stream may still take it.

    Args:
        error: What came of the latest try.
        waited: How long it was tried, in seconds; None: there is time left.
    """
    in_cluster, refusal = connection.in_cluster, f"{subject} did not take {what}"
    unanswered = isinstance(error, RequestTimeoutError)
    if unanswered and not in_cluster:
        return f"{refusal}: {error}"
    create = f"create {stream} with `diracx-task-run setup`, or start a worker that may"
    standing = await _standing(connection, stream)
    if standing is _Standing.MISSING or (standing is _Standing.HIDDEN and not in_cluster):
        return f"no stream takes {subject}: {create}"
    if waited is None and (in_cluster or standing is _Standing.LEADERLESS):
        return None
    if standing is _Standing.LEADERLESS:
        return f"no leader for {waited:g} s: {stream} did not take {what}; {WHERE_TO_LOOK}"
    if unanswered and waited is not None:
        # The error tells of the last try alone.
        return f"{refusal}: {RequestTimeoutError(subject, waited, in_cluster=in_cluster)}"
    if standing is _Standing.HIDDEN:
        return f"no leader for {waited:g} s, or no stream takes {subject}: {WHERE_TO_LOOK}, or {create}"
    return f"{refusal}: {stream} is there without that subject; run `diracx-task-run setup`"


class _Standing(Enum):
    """What the server says about a stream that takes nothing."""

    MISSING = auto()
    LEADERLESS = auto()
    LED = auto()
    HIDDEN = auto()
    """This user may not ask, as most producers; or there is no JetStream that would answer."""


async def _standing(connection: Connection, stream: str) -> _Standing:
    try:
        await connection.api(f"STREAM.INFO.{stream}", timeout=_LOOK_SECONDS)
    except ApiError as error:
        return _Standing.MISSING if error.err_code == STREAM_NOT_FOUND else _Standing.HIDDEN
    except (NoLeaderError, RequestTimeoutError):
        return _Standing.LEADERLESS
    except ServerError:
        return _Standing.HIDDEN
    return _Standing.LED


def _batch_headers(messages: Sequence[BatchMessage], batch_id: str) -> list[dict[str, str]]:
    headers = [
        {**message.headers, BATCH_ID: batch_id, BATCH_SEQUENCE: str(place)} for place, message in enumerate(messages, 1)
    ]
    headers[-1][BATCH_COMMIT] = "1"
    return headers


async def _commit(
    connection: Connection, messages: Sequence[BatchMessage], headers: Sequence[Mapping[str, str]]
) -> PubAck:
    answers: list[asyncio.Future[Received]] = []
    try:
        # One connection keeps the order, so there is no need to wait for each answer.
        for message, its_headers in zip(messages, headers, strict=True):
            answers.append(await connection.send_request(message.subject, message.body, headers=its_headers))
        for answer in answers[:-1]:
            # The answer to a staged message is empty.
            if refusal := (await answer).data:
                _read_ack(refusal, messages[-1].subject)
        return _read_ack((await answers[-1]).data, messages[-1].subject)
    finally:
        for answer in answers:
            answer.cancel()


def _read_ack(answer: bytes, subject: str) -> PubAck:
    try:
        ack = _decoder.decode(answer)
    except msgspec.MsgspecError:
        raise ServerUnavailableError(f"the answer to a publish on {subject} came from no stream") from None
    if ack.error is not None:
        raise ApiError(ack.error.code, ack.error.err_code, ack.error.description)
    return ack
