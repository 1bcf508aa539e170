"""Waiting for facts, in place of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

POLL_SECONDS: Final = 0.02


async def wait_until(
    predicate: Callable[[], object | Awaitable[object]], *, description: str, timeout: float = 10
) -> None:
    """Return once the predicate, sync or async, returns a true value.

    An exception of the predicate ends the wait at once. The predicate is called once more after the timeout, so that a
    stalled machine does not fail a test whose fact has come true.

    Args:
        description: The awaited fact, for the text of the error.
        timeout: The longest wait, in seconds.

    Raises:
        AssertionError: The fact did not come true in time.
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
        await asyncio.sleep(POLL_SECONDS)
