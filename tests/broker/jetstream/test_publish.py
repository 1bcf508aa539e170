"""Atomic batches beside as many others as a stream takes at a time."""

from __future__ import annotations

import asyncio

import pytest

from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.errors import TOO_MANY_BATCHES, ApiError, RequestTimeoutError
from diracx.tasks.plumbing.jetstream.publish import BatchMessage, publish_batch
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.testing import wait_until

MOST = 50
"""How many a stream takes."""


async def begin(connection: Connection, subject: str, name: str) -> bytes:
    """Begin a batch, as a publisher does that dies before it commits; the answer is empty if the server takes it."""
    headers = {"Nats-Batch-Id": name, "Nats-Batch-Sequence": "1"}
    return (await connection.request(subject, b"{}", headers=headers)).data


async def test_a_batch_waits_until_the_stream_takes_one_more(connection: Connection, topology: Namespace) -> None:
    subject = topology.group_subject("g")
    begun = [await begin(connection, f"{subject}.{number}", f"batch {number}") for number in range(MOST)]
    assert not any(begun)
    messages = [BatchMessage(f"{subject}.part.{number}", b"{}", {}) for number in range(2)]

    async def is_refused() -> bool:
        with pytest.raises((ApiError, RequestTimeoutError)) as refused:
            await publish_batch(connection, messages, timeout=0.3)
        # The time may also be over while a try is on its way, whose end is not known then.
        return isinstance(refused.value, ApiError) and refused.value.err_code == TOO_MANY_BATCHES

    await wait_until(is_refused, description="the server has no place for one more")
    ours = asyncio.create_task(publish_batch(connection, messages, timeout=30))
    await begin(connection, subject, "one more")  # while ours is refused
    commit = {"Nats-Batch-Id": "batch 0", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
    await connection.request(subject, b"{}", headers=commit)
    assert (await ours).seq == 4
