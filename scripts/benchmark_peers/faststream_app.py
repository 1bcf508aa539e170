"""FastStream on NATS (JetStream, pull)."""

from __future__ import annotations

import asyncio
import os

import nats
from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub

from submitting import arguments, submit
from tally import begun

# No log line a message.
broker = NatsBroker(os.environ["PEER_URL"], logger=None)
stream = JStream("bench", subjects=["noop"])
app = FastStream(broker)


@broker.subscriber("noop", stream=stream, durable="bench", pull_sub=PullSub(batch_size=100))  # type: ignore[untyped-decorator]
async def noop(sent: float) -> None:
    """Do nothing but call the tally."""
    begun(sent)


async def main() -> None:
    """Submit."""
    client = await nats.connect(os.environ["PEER_URL"])
    await client.jetstream().add_stream(name="bench", subjects=["noop"])
    await client.close()
    async with NatsBroker(os.environ["PEER_URL"], logger=None) as submitter:

        async def send(sent: float) -> None:
            await submitter.publish(sent, "noop", stream="bench")

        await submit(send, *arguments())


if __name__ == "__main__":
    asyncio.run(main())
