"""Queues that are paused: the server hands out nothing of them until a time, or until somebody resumes them.

It is JetStream's own pause of a consumer: it binds all workers at once, also those that start later, whoever set it
and by whatever means, and it is kept with the consumer through restarts of the server. What follows from how
nats-server 2.15 does it (`tests/broker/test_pausing.py` pins each):

* A pull is answered as by an empty queue: `no_wait` with 404 at once, a long poll with heartbeats and in the end 408.
  So a worker is as well as an idle one, serves its other queues in their order, and a burst ends.
* What was handed out stays so: it is executed, its lease is renewed, and it is settled. What is given back, or parked
  for a retry or a lock, waits with the rest.
* Writing the configuration of a consumer that stands neither sets, changes nor lifts a pause, whatever `pause_until`
  it has. So `topology` may update a paused queue, and one resumed meanwhile is not paused again.
* When its time has come, a long poll that stands brings messages at once. When it is resumed before, it does so with
  its next heartbeat, after 5 s at the most; a new pull does at once.
* `pause_until` stays in the configuration when the time is over: only `paused` tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from diracx.tasks.plumbing.exceptions import ServerError
from diracx.tasks.plumbing.jetstream.connection import Connection
from diracx.tasks.plumbing.wire.times import from_rfc3339, readable_time, to_rfc3339

_TAKES_AT_MOST: Final = 5.0
_LOOK_AGAIN: Final = 0.01

UNTIL_RESUMED: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Stands for no end: the server needs one. Nanoseconds since the epoch, which many count in 64 bits, end in 2262."""


def paused_until(info: Mapping[str, Any]) -> datetime | None:
    """When the pause ends of a consumer with this `CONSUMER.INFO`, by the server's clock; None: it is not paused."""
    return from_rfc3339(info["config"]["pause_until"]) if info.get("paused") else None


def in_words(until: datetime) -> str:
    """What is told after "paused until", in whole seconds."""
    if until >= UNTIL_RESUMED:
        return "it is resumed"
    return readable_time(until)


async def pause(connection: Connection, stream: str, consumer: str, until: datetime) -> None:
    """Pause a consumer, or change when its pause ends; a time that has passed resumes it. It holds on return.

    Raises:
        ServerError: As `Connection.api` does; or it does not hold after 5 s, e.g. since somebody else changed it.
    """
    await _change(connection, stream, consumer, until)


async def resume(connection: Connection, stream: str, consumer: str) -> None:
    """End the pause of a consumer; nothing happens to one that is not paused. It holds on return.

    Raises:
        ServerError: As `pause` does.
    """
    await _change(connection, stream, consumer, None)


async def _change(connection: Connection, stream: str, consumer: str, until: datetime | None) -> None:
    request = {} if until is None else {"pause_until": to_rfc3339(until)}
    await connection.api(f"CONSUMER.PAUSE.{stream}.{consumer}", request)
    try:
        async with asyncio.timeout(_TAKES_AT_MOST):
            while True:
                # A cluster answers when the change is on its way to the leader of the consumer, which answers this.
                if _written(await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")) == until:
                    return
                await asyncio.sleep(_LOOK_AGAIN)
    except TimeoutError:
        why = f"{consumer}: what was asked does not hold {_TAKES_AT_MOST:g} s after the server took it"
        raise ServerError(why) from None


def _written(info: Mapping[str, Any]) -> datetime | None:
    text = info["config"].get("pause_until")
    return None if text is None else from_rfc3339(text)
