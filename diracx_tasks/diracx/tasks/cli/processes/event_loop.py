"""The event loop of a worker or a scheduler, as its option `--loop` names it."""

from __future__ import annotations

import asyncio
from importlib import import_module

import rich_click as click

from diracx.tasks.plumbing.execution.loops import LoopFactory


def loop_factory(name: str) -> LoopFactory:
    """Return the function that makes the loop: of asyncio, of uvloop, or for `auto` of uvloop where it is installed.

    Raises:
        click.BadParameter: uvloop is asked for and not installed.
    """
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        # Not before it is wanted, and an extra that need not be installed.
        factory: LoopFactory = import_module("uvloop").new_event_loop
    except ImportError:
        if name == "uvloop":
            raise click.BadParameter(
                "uvloop is not installed: pip install 'diracx-tasks[uvloop]'", param_hint=["--loop"]
            ) from None
        return asyncio.new_event_loop
    return factory
