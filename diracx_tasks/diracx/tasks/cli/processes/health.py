"""The options `--health-port` and `--health-host` of what runs for long."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import rich_click as click

from diracx.tasks.cli.options import Number
from diracx.tasks.plumbing.observability.health import Health, serve_health

Command = Callable[..., Any]


def health_options(command: Command) -> Command:
    """Give a command the arguments `health_host` and `health_port`."""
    for option in (
        click.option(
            "--health-host",
            default="127.0.0.1",
            show_default=True,
            metavar="HOST",
            envvar="DIRACX_TASKS_HEALTH_HOST",
            show_envvar=True,
            help="Where --health-port listens.",
        ),
        click.option(
            "--health-port",
            type=Number(0, 65535),
            metavar="PORT",
            envvar="DIRACX_TASKS_HEALTH_PORT",
            show_envvar=True,
            help="Serve /live and /ready over HTTP; 0 is a free port, which the log tells.",
        ),
    ):
        command = option(command)
    return command


@asynccontextmanager
async def health_door(health: Health, door: tuple[str, int] | None) -> AsyncIterator[None]:
    """Serve it until the end of the block, if wanted.

    Raises:
        click.BadParameter: It cannot listen there.
    """
    if door is None:
        yield
        return
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(serve_health(health, *door))
        except OSError as error:
            # The loop puts a sentence of its own around it.
            cause = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)
            why = f"{door[0]}:{door[1]}: {cause}"
            raise click.BadParameter(why, param_hint=["--health-port"]) from None
        yield
