"""The event loop of a worker or a scheduler: the option `--loop`."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any, Final

import rich_click as click

from diracx.tasks.plumbing.execution.loops import LoopFactory

LOOPS: Final = ("auto", "asyncio", "uvloop")


class _Loop(click.Choice[str]):
    """One of `LOOPS`, converted to the function that makes such a loop."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the function."""
        name = super().convert(value, param, ctx)
        if name == "asyncio":
            return asyncio.new_event_loop
        try:
            # Not before it is wanted, and an extra that need not be installed.
            factory: LoopFactory = import_module("uvloop").new_event_loop
        except ImportError:
            if name == "uvloop":
                self.fail("uvloop is not installed: pip install 'diracx-tasks[uvloop]'", param, ctx)
            return asyncio.new_event_loop
        return factory


loop_option = click.option(
    "--loop",
    "new_loop",
    type=_Loop(LOOPS),
    default="auto",
    show_default=True,
    metavar="LOOP",
    envvar="DIRACX_TASKS_LOOP",
    show_envvar=True,
    help="The event loop: uvloop, asyncio, or auto, which is uvloop where that is installed.",
)
"""The command receives it as `new_loop`, a `LoopFactory`."""
