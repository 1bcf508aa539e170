"""Health over HTTP, for the options `--health-port` and `--health-host`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import rich_click as click

from diracx.tasks.plumbing.observability.health import Health, serve_health


@asynccontextmanager
async def health_endpoint(health: Health, address: tuple[str, int] | None) -> AsyncIterator[None]:
    """Serve the health within the block; None as the address serves nothing.

    Raises:
        click.BadParameter: The address cannot be bound.
    """
    if address is None:
        yield
        return
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(serve_health(health, *address))
        except OSError as error:
            # asyncio wraps the system's words in a sentence of its own.
            cause = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
            why = f"{address[0]}:{address[1]}: {cause}"
            raise click.BadParameter(why, param_hint=["--health-port"]) from None
        yield
