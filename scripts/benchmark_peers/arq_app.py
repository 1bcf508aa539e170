"""arq on Redis."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from submitting import arguments, submit
from tally import begun

LOGGING = {"version": 1, "root": {"level": "WARNING"}}
SETTINGS = RedisSettings.from_dsn(os.environ["PEER_URL"])


async def noop(_: dict[Any, Any], sent: float) -> None:
    """Do nothing but call the tally."""
    begun(sent)


class WorkerSettings:
    """100 at once, no result is kept, and the queue is looked at every 10 ms rather than twice a second."""

    functions = (noop,)
    redis_settings = SETTINGS
    max_jobs = 100
    keep_result = 0
    poll_delay = 0.01
    log_results = False


async def main() -> None:
    """Submit."""
    pool = await create_pool(SETTINGS)
    await submit(lambda sent: pool.enqueue_job("noop", sent), *arguments())
    await pool.aclose()


if __name__ == "__main__":
    asyncio.run(main())
