"""`diracx-task-run status`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta

import msgspec
import rich_click as click
from rich.console import Console
from rich.live import Live

from diracx.tasks.cli.access import namespace_of, operator_connection
from diracx.tasks.cli.missing import mesh_expected
from diracx.tasks.cli.options import Access, Seconds, json_option, log_option, server_options
from diracx.tasks.cli.terminal.output import print_document
from diracx.tasks.cli.terminal.status_screen import Screen, plain
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.operations.status import StatusReader, StatusSnapshot


@click.command("status")
@click.option("--watch", is_flag=True, help="Go on looking until Ctrl-C.")
@click.option(
    "--interval",
    type=Seconds(),
    default="2",
    show_default=True,
    metavar="SECONDS",
    help="How long between two looks of --watch.",
)
@json_option
@log_option("error")
@server_options
def command(*, watch: bool, interval: timedelta, as_json: bool, access: Access) -> None:
    """Show queues, locks, scheduler and workers at a glance.

    Waiting tasks were never delivered; parked ones wait for a retry or a lock; `oldest` is how long the first of the
    waiting ones has waited. A worker that does not answer within two seconds is not listed.

    With --watch and --json: one document a line.
    """
    looking = _watch(access, interval, as_json) if watch else _once(access, as_json)
    try:
        asyncio.run(looking)
    except KeyboardInterrupt:
        if not watch:
            raise


async def _once(access: Access, as_json: bool) -> None:
    namespace = namespace_of(access)
    async with operator_connection(access, "status") as connection:
        with mesh_expected(namespace):
            glance = await StatusReader(connection, namespace).read()
    console = Console()
    if as_json:
        print_document(glance.status)
    elif sys.stdout.isatty():
        console.print(Screen(glance))
    else:
        print(plain(glance))


async def _watch(access: Access, interval: timedelta, as_json: bool) -> None:
    console = Console()
    if as_json:
        async for glance in _glances(access, interval):
            if isinstance(glance, StatusSnapshot):
                sys.stdout.buffer.write(msgspec.json.encode(glance.status) + b"\n")
                sys.stdout.buffer.flush()
            else:
                print(f"warning: {glance}", file=sys.stderr)
    elif not sys.stdout.isatty() or console.is_dumb_terminal:
        async for glance in _glances(access, interval):
            print(plain(glance) if isinstance(glance, StatusSnapshot) else f"warning: {glance}", end="\n\n", flush=True)
    else:
        last = None
        with _drawn_alone(console) as live:
            async for glance in _glances(access, interval):
                last = glance if isinstance(glance, StatusSnapshot) else last
                problem = None if isinstance(glance, StatusSnapshot) else str(glance)
                live.update(Screen(last, problem, watching=True), refresh=True)


@contextmanager
def _drawn_alone(console: Console) -> Iterator[Live]:
    """A screen that is drawn anew when its size changes, and into which no log is written."""
    loop = asyncio.get_running_loop()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        loop.add_signal_handler(signal.SIGWINCH, live.refresh)
        if sys.stderr.isatty():
            logging.disable()
        try:
            yield live
        finally:
            logging.disable(logging.NOTSET)
            loop.remove_signal_handler(signal.SIGWINCH)


async def _glances(access: Access, interval: timedelta) -> AsyncIterator[StatusSnapshot | ServerUnavailableError]:
    """One after another for ever; an outage is one of them, since the connection comes back."""
    namespace = namespace_of(access)
    async with operator_connection(access, "status") as connection:
        reader = StatusReader(connection, namespace)
        while True:
            with mesh_expected(namespace):
                try:
                    yield await reader.read()
                except ServerUnavailableError as error:
                    yield error
            await asyncio.sleep(interval.total_seconds())
