"""An atomic batch (ADR-50): several messages into one stream, all of them or none.

Each message carries `Nats-Batch-Id` and its place in `Nats-Batch-Sequence`, the last one `Nats-Batch-Commit`. The
server keeps them aside until the commit, checks every expected sequence, and only then stores anything; a batch
whose commit does not come is forgotten after some seconds. So a publisher that dies at any point leaves the stream
as it was, or with everything in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from nats.aio.msg import Msg

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import RequestTimeoutError
from diracx.tasks.plumbing.jetstream.publish import PubAck, ack_of

LARGEST_BATCH: Final = 1_000
"""Messages in one batch; a limit of the server."""


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """One message of a batch. `Nats-Expected-Last-Subject-Sequence` may stand on each, for its own subject."""

    subject: str
    body: bytes
    headers: dict[str, str]


async def publish_batch(connection: Connection, messages: Sequence[BatchMessage], *, timeout: float = 5.0) -> PubAck:
    """Store all `messages`, in order and with consecutive sequences, or none of them.

    Returns:
        The PubAck of the commit; its `seq` is that of the last message.

    Raises:
        ApiError: Refused as a whole, e.g. `WRONG_LAST_SEQUENCE`; nothing was stored.
        ServerUnavailableError: No answer within `timeout` seconds; all or nothing was stored.
        ValueError: An empty batch, or one over `LARGEST_BATCH`.
    """
    if not 0 < len(messages) <= LARGEST_BATCH:
        raise ValueError(f"a batch has 1 to {LARGEST_BATCH} messages, not {len(messages)}")
    try:
        async with asyncio.timeout(timeout):
            return await _commit(connection, messages, _numbered(messages, uuid4().hex))
    except TimeoutError:
        raise RequestTimeoutError(messages[-1].subject, timeout) from None


def _numbered(messages: Sequence[BatchMessage], identity: str) -> list[dict[str, str]]:
    numbered = [
        {**message.headers, "Nats-Batch-Id": identity, "Nats-Batch-Sequence": str(place)}
        for place, message in enumerate(messages, 1)
    ]
    numbered[-1]["Nats-Batch-Commit"] = "1"
    return numbered


async def _commit(
    connection: Connection, messages: Sequence[BatchMessage], headers: Sequence[Mapping[str, str]]
) -> PubAck:
    answers: list[asyncio.Future[Msg]] = []
    try:
        # One connection keeps their order, so nothing is gained by waiting for each.
        for message, numbered in zip(messages, headers, strict=True):
            answers.append(await connection.send_request(message.subject, message.body, headers=numbered))
        for answer in answers[:-1]:
            # Empty for a message that was put aside.
            if refusal := (await answer).data:
                ack_of(refusal, messages[-1].subject)
        return ack_of((await answers[-1]).data, messages[-1].subject)
    finally:
        for answer in answers:
            answer.cancel()
