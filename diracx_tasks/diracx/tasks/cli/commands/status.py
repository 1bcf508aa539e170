"""`diracx-task-run status`."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Final

import rich_click as click
from rich.console import Console
from rich.live import Live

from diracx.tasks.cli.access import mesh_expected, namespace_of, operator_connection
from diracx.tasks.cli.commands.status_check import check
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.own_log import log_kept_out
from diracx.tasks.cli.terminal.output import note, print_document, print_text
from diracx.tasks.cli.terminal.status_screen import Screen, plain
from diracx.tasks.plumbing.exceptions import ServerUnavailableError
from diracx.tasks.plumbing.observability.lasting_failure import LastingFailure
from diracx.tasks.plumbing.operations.status import StatusReader, StatusSnapshot

SHORTEST_INTERVAL: Final = timedelta(seconds=0.01)


def command(
    *, watch: bool, interval: timedelta, checks: bool, ignore: Sequence[str], as_json: bool, access: Access
) -> int | None:
    if watch and checks:
        raise click.UsageError("--watch and --check exclude each other")
    if ignore and not checks:
        raise click.UsageError("--ignore belongs to --check")
    if checks:
        return check(ignore=ignore, as_json=as_json, access=access)
    _show(watch, interval, as_json, access)
    return None


def _show(watch: bool, interval: timedelta, as_json: bool, access: Access) -> None:
    if watch and interval < SHORTEST_INTERVAL:
        raise click.BadParameter(f"{interval.total_seconds():g} must be 0.01 or more", param_hint=["--interval"])
    showing = _watch(access, interval, as_json) if watch else _once(access, as_json)
    try:
        asyncio.run(showing)
    except KeyboardInterrupt:
        if not watch:
            raise


async def _once(access: Access, as_json: bool) -> None:
    namespace = namespace_of(access)
    async with operator_connection(access, "status") as connection, mesh_expected(connection, namespace):
        snapshot = await StatusReader(connection, namespace).read()
    console = Console()
    if as_json:
        print_document(snapshot.status)
    elif sys.stdout.isatty():
        console.print(Screen(snapshot))
    else:
        print_text(plain(snapshot))


async def _watch(access: Access, interval: timedelta, as_json: bool) -> None:
    console = Console()
    # One line a minute, and not one for each look.
    outage = LastingFailure(_Notes(), "no news", "the news go on")
    if as_json:
        async for snapshot in _snapshots(access, interval):
            if isinstance(snapshot, StatusSnapshot):
                outage.succeeded()
                print_document(snapshot.status, indent=None)
            else:
                outage.failed(str(snapshot))
    elif not sys.stdout.isatty() or console.is_dumb_terminal:
        async for snapshot in _snapshots(access, interval):
            if isinstance(snapshot, StatusSnapshot):
                outage.succeeded()
                print_text(f"{plain(snapshot)}\n")
            else:
                outage.failed(str(snapshot))
    else:
        last = None
        with _full_screen(console) as live:
            async for snapshot in _snapshots(access, interval):
                last = snapshot if isinstance(snapshot, StatusSnapshot) else last
                problem = None if isinstance(snapshot, StatusSnapshot) else str(snapshot)
                live.update(Screen(last, problem, watching=True), refresh=True)


class _Notes:
    """Writes lines to standard error."""

    def warning(self, msg: str, *args: object) -> None:
        note(f"warning: {msg % args}")

    def info(self, msg: str, *args: object) -> None:
        note(msg % args)


@contextmanager
def _full_screen(console: Console) -> Iterator[Live]:
    """Take the whole terminal within the block: redraw when its size changes, and keep the log out."""
    loop = asyncio.get_running_loop()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        loop.add_signal_handler(signal.SIGWINCH, live.refresh)
        try:
            with log_kept_out() if sys.stderr.isatty() else nullcontext():
                yield live
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


async def _snapshots(access: Access, interval: timedelta) -> AsyncIterator[StatusSnapshot | ServerUnavailableError]:
    """Yield snapshots for ever. An outage is yielded as its error, since the connection comes back."""
    namespace = namespace_of(access)
    async with operator_connection(access, "status") as connection:
        reader = StatusReader(connection, namespace)
        while True:
            async with mesh_expected(connection, namespace):
                try:
                    yield await reader.read()
                except ServerUnavailableError as error:
                    yield error
            await asyncio.sleep(interval.total_seconds())
