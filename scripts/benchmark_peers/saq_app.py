"""SAQ on Redis."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from saq import Queue

from submitting import arguments, submit
from tally import begun

queue = Queue.from_url(os.environ["PEER_URL"])


async def noop(_: dict[Any, Any], *, sent: float) -> None:
    """Do nothing but call the tally."""
    begun(sent)


settings = {"queue": queue, "functions": [noop], "concurrency": 100}


async def main() -> None:
    """Submit; a job is not kept once it is done."""
    await queue.connect()
    await submit(lambda sent: queue.enqueue("noop", sent=sent, ttl=-1), *arguments())
    await queue.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
