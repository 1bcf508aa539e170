"""Paused queues: the server delivers none of their messages until a time, or until an operator resumes them.

This is JetStream's own pause of a consumer. It holds for all workers at once, also for those that start later, and
through restarts of the server, however it was set. nats-server 2.15 behaves as follows (`test_consumer_pause.py` pins
each point):

* A pull is answered as by an empty queue: `no_wait` with 404 at once, a long poll with heartbeats and at its end 408.
  So a worker behaves as an idle one, serves its other queues in their order, and a burst ends.
* A message that was delivered before stays in flight: it is executed, its lease is renewed, and it is settled. A
  message that is given back, or that waits for a retry or a lock, waits with the rest.
* Writing the configuration of an existing consumer neither sets, changes nor ends a pause, whatever `pause_until` it
  has. So `topology` may update a paused queue, and a queue that was resumed meanwhile is not paused again.
* At the end of the pause, a long poll that is open brings messages at once. After a resume it does so with its next
  heartbeat, within 5 s; a new pull does at once.
* `pause_until` stays in the configuration after the end: only `paused` tells whether the consumer is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.jetstream.connection.elections import ELECTION_SECONDS
from diracx.tasks.plumbing.wire.times import from_rfc3339, readable_time, to_rfc3339

_HOLDS_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.01

UNTIL_RESUMED: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Means no end; the server needs one. 64 bits of nanoseconds since the epoch, a common format, end in 2262."""


def paused_until(info: Mapping[str, Any]) -> datetime | None:
    """The end of the pause in a `CONSUMER.INFO` answer, by the server's clock; None: the consumer is not paused."""
    return from_rfc3339(info["config"]["pause_until"]) if info.get("paused") else None


def pause_end_text(until: datetime) -> str:
    """The text to show after "paused until", in whole seconds."""
    if until >= UNTIL_RESUMED:
        return "it is resumed"
    return readable_time(until)


async def pause(connection: Connection, stream: str, consumer: str, until: datetime) -> None:
    """Pause a consumer, or change the end of its pause; a time in the past resumes it. It holds on return.

    Raises:
        ServerError: As `Connection.api`; or the pause does not hold after 5 s (in a cluster 15), e.g. since another
            operator changed it.
    """
    await _change(connection, stream, consumer, until)


async def resume(connection: Connection, stream: str, consumer: str) -> None:
    """End the pause of a consumer; nothing happens to one that is not paused. It holds on return.

    Raises:
        ServerError: As `pause`.
    """
    await _change(connection, stream, consumer, None)


async def _change(connection: Connection, stream: str, consumer: str, until: datetime | None) -> None:
    request = {} if until is None else {"pause_until": to_rfc3339(until)}
    await connection.api(f"CONSUMER.PAUSE.{stream}.{consumer}", request)
    # The consumer may be electing a leader.
    seconds = _HOLDS_SECONDS + (ELECTION_SECONDS if connection.in_cluster else 0)
    try:
        async with asyncio.timeout(seconds):
            while True:
                # A cluster answers before the leader of the consumer has the change; the leader answers this request.
                if _pause_until(await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")) == until:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        text = f"{consumer}: the change does not hold {seconds:g} s after the server accepted it"
        raise ServerError(text) from None


def _pause_until(info: Mapping[str, Any]) -> datetime | None:
    text = info["config"].get("pause_until")
    return None if text is None else from_rfc3339(text)
