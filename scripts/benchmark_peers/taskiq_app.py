"""taskiq on NATS (JetStream, pull) and on Redis (streams)."""

from __future__ import annotations

import asyncio
import os

from submitting import arguments, submit
from tally import begun

URL = os.environ["PEER_URL"]

if URL.startswith("nats:"):
    from taskiq_nats import PullBasedJetStreamBroker

    # As many as are executed at once; the default is 1.
    broker = PullBasedJetStreamBroker(servers=[URL], pull_consume_batch=100, pull_consume_timeout=5)
else:
    from taskiq_redis import RedisStreamBroker

    # 0: a group that was made after the tasks were submitted takes them, too.
    broker = RedisStreamBroker(url=URL, consumer_id="0")


@broker.task  # type: ignore[untyped-decorator]
async def noop(sent: float) -> None:
    """Do nothing but call the tally."""
    begun(sent)


async def main() -> None:
    """Submit."""
    await broker.startup()
    await submit(noop.kiq, *arguments())
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
