"""Waiting on facts: what a test does instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

_POLL_SECONDS: Final = 0.02


async def wait_until(
    predicate: Callable[[], object | Awaitable[object]], *, description: str, timeout: float = 10
) -> None:
    """Return once `predicate`, sync or async, gives something true.

    What the predicate raises ends the wait at once. It is asked once more after the time is up, so that a
    machine which stalls in between fails no test whose fact has come true.

    Args:
        description: What is waited for, in the words of the failure.
        timeout: How long, in seconds.

    Raises:
        AssertionError: It did not come true in time.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while True:
        last_try = time.monotonic() >= deadline
        found = predicate()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        if last_try:
            raise AssertionError(f"not within {timeout:g} s: {description}")
        await asyncio.sleep(_POLL_SECONDS)
