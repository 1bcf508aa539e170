"""What the submitters of all systems do: `APP.py drain TASKS` or `APP.py latency`.

`latency` submits at intervals, until it is ended; no worker needs more than `MOST`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

INTERVAL_SECONDS: Final = 0.04
MOST: Final = 1_000
AT_ONCE: Final = 50
"""Submissions in flight in a drain; how fast it is filled is not measured."""


async def submit(send: Callable[[float], Awaitable[object]], mode: str, tasks: int = 0) -> None:
    """Submit what a measurement wants.

    Args:
        send: Submits one task with this time of submission (0: not to be measured), until it is stored.
    """
    if mode == "drain":
        for start in range(0, tasks, AT_ONCE):
            await asyncio.gather(*(send(0.0) for _ in range(min(AT_ONCE, tasks - start))))
    else:
        for _ in range(MOST):
            await asyncio.sleep(INTERVAL_SECONDS * random.uniform(0.5, 1.5))
            await send(time.perf_counter())


def arguments() -> tuple[str, int]:
    """`MODE [TASKS]` of the command line."""
    return sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
