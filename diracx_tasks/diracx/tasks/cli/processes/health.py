"""Health over HTTP: the options `--health-port` and `--health-host`, and serving them."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import rich_click as click

from diracx.tasks.cli.options import Number
from diracx.tasks.plumbing.observability.health import Health, serve_health

Command = Callable[..., Any]


def health_options(command: Command) -> Command:
    """Add the health options to a command, which receives them as `health_address`: host and port, or None."""

    @functools.wraps(command)
    def with_address(*, health_host: str, health_port: int | None, **values: Any) -> Any:
        return command(health_address=None if health_port is None else (health_host, health_port), **values)

    decorated: Command = with_address
    for option in (
        click.option(
            "--health-host",
            default="127.0.0.1",
            show_default=True,
            metavar="HOST",
            envvar="DIRACX_TASKS_HEALTH_HOST",
            show_envvar=True,
            help="The address on which --health-port listens.",
        ),
        click.option(
            "--health-port",
            type=Number(0, 65535),
            metavar="PORT",
            envvar="DIRACX_TASKS_HEALTH_PORT",
            show_envvar=True,
            help="Serve /live and /ready over HTTP. 0 takes a free port; the log names it.",
        ),
    ):
        decorated = option(decorated)
    return decorated


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
