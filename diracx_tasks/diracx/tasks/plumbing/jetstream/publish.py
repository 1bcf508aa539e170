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
from typing import Final, TypeVar
from uuid import uuid4

import msgspec
from nats.aio.msg import Msg

from diracx.tasks.plumbing.exceptions import SendTaskError, ServerError, ServerUnavailableError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import (
    STORE_FAILED,
    TOO_MANY_BATCHES,
    ApiError,
    NoRespondersError,
    NotConnectedError,
    RequestTimeoutError,
    stream_full_text,
)
from diracx.tasks.plumbing.jetstream.headers import BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE

T = TypeVar("T")

MAX_BATCH_MESSAGES: Final = 1_000
"""The largest batch that the server accepts."""

_RETRY_SECONDS: Final = 0.2
# For this long, "no responders" may mean that the stream is electing a leader.
_ELECTION_SECONDS: Final = 2.0


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
    connection: Connection, subject: str, body: bytes, headers: Mapping[str, str], *, timeout: float = 5.0
) -> PubAck:
    """Publish one message and wait for its acknowledgement.

    Raises:
        ServerUnavailableError: No answer within `timeout` seconds; the message may have been stored.
        ApiError: The server refused the message.
    """
    answer = await connection.request(subject, body, headers=headers, timeout=timeout)
    return _read_ack(answer.data, subject)


async def publish_batch(connection: Connection, messages: Sequence[BatchMessage], *, timeout: float = 5.0) -> PubAck:
    """Store all `messages`, in order and with consecutive sequences, or none of them.

    While others have begun as many batches as the stream takes at a time, it is tried again.

    Returns:
        The acknowledgement of the commit; its `seq` is the sequence of the last message.

    Raises:
        ApiError: The server refused the batch, e.g. `WRONG_LAST_SEQUENCE`; nothing was stored.
        ServerUnavailableError: No answer within `timeout` seconds; all messages were stored, or none.
        ValueError: The batch is empty, or larger than `MAX_BATCH_MESSAGES`.
    """
    if not 0 < len(messages) <= MAX_BATCH_MESSAGES:
        raise ValueError(f"a batch has 1 to {MAX_BATCH_MESSAGES} messages, not {len(messages)}")
    refused: ApiError | None = None
    try:
        async with asyncio.timeout(timeout):
            while True:
                refused = None
                try:
                    return await _commit(connection, messages, _batch_headers(messages, uuid4().hex))
                except ApiError as error:
                    if error.err_code != TOO_MANY_BATCHES:
                        raise
                    refused = error
                await asyncio.sleep(random.uniform(0, _RETRY_SECONDS))
    except TimeoutError:
        raise refused or RequestTimeoutError(messages[-1].subject, timeout) from None


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

    Args:
        stream: The stream that takes the subject, for the errors.
        send: Publishes within the seconds that it is given.
        timeout: The limit for all tries, reconnects included, in seconds.
        what: What is published, for the errors.

    Raises:
        SendTaskError: The server did not store it, or did not answer in time.
    """
    clock = asyncio.get_running_loop().time
    deadline, election_ends = clock() + timeout, clock() + min(_ELECTION_SECONDS, timeout)
    while True:
        remaining = deadline - clock()
        try:
            return await send(max(remaining, 0.1))
        except NotConnectedError as error:
            if not await connection.wait_connected(max(remaining, 0)):
                raise SendTaskError(f"{subject} did not take {what}: {error}") from error
        except NoRespondersError as error:
            if clock() >= election_ends:
                raise SendTaskError(
                    f"no stream takes {subject}: create {stream} with `diracx-task-run setup`, or start a worker that "
                    "may"
                ) from error
            await asyncio.sleep(_RETRY_SECONDS)
        except ServerError as error:
            if isinstance(error, ApiError) and error.err_code == STORE_FAILED:
                raise SendTaskError(stream_full_text(stream, error.description)) from error
            raise SendTaskError(f"{subject} did not take {what}: {error}") from error


def _batch_headers(messages: Sequence[BatchMessage], batch_id: str) -> list[dict[str, str]]:
    headers = [
        {**message.headers, BATCH_ID: batch_id, BATCH_SEQUENCE: str(place)} for place, message in enumerate(messages, 1)
    ]
    headers[-1][BATCH_COMMIT] = "1"
    return headers


async def _commit(
    connection: Connection, messages: Sequence[BatchMessage], headers: Sequence[Mapping[str, str]]
) -> PubAck:
    answers: list[asyncio.Future[Msg]] = []
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
