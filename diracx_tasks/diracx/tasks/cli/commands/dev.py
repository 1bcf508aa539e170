"""`diracx-task-run dev`: a whole mesh on this machine, for who writes tasks."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import rich_click as click
from rich.console import Console
from rich.text import Text

from diracx.tasks.cli.examples import example
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.options import Number, namespace_option, panels
from diracx.tasks.cli.processes.children import Child
from diracx.tasks.cli.terminal.log_lines import LogLine
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace

DEFAULT_PORT: Final = 4222
_COLOURS: Final = {"small": "cyan", "medium": "green", "large": "magenta", "scheduler": "yellow"}


@click.command("dev")
@click.option(
    "--port",
    type=Number(1, 65535),
    metavar="PORT",
    help=f"Of the server; {DEFAULT_PORT} by default, a free one where that is taken.",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".diracx-tasks"),
    show_default=True,
    metavar="FOLDER",
    help="Where the server keeps its streams from one run to the next.",
)
@namespace_option
@panels
def command(*, port: int | None, store: Path, namespace: str) -> None:
    """Run a server, one worker of each size and the scheduler, until Ctrl-C.

    What is submitted survives restarts, in the folder of --store. Workers pick up changed code when this command is
    run again.
    """
    try:
        names = Namespace(namespace)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    registry = installed_tasks()
    if port is None and _is_free(DEFAULT_PORT):
        port = DEFAULT_PORT
    asyncio.run(_run(port, store, names, registry))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _run(port: int | None, store: Path, namespace: Namespace, registry: TaskRegistry) -> None:
    console = Console(stderr=True, highlight=False)

    def tell(name: str, line: LogLine | str) -> None:
        shown = line if isinstance(line, str) else line.shown()
        console.print(Text.assemble((f"{name:<9} ", _COLOURS.get(name, "")), shown), soft_wrap=True)

    async with EmbeddedServer(port=port, store_dir=store) as server:
        children = _children(server.url, namespace)
        for line in _welcome(server.url, store, namespace, registry):
            console.print(line, soft_wrap=True)

        def stop() -> None:
            for child in children:
                child.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.run(tell), name=child.name)
        console.print("all ended")


def _children(url: str, namespace: Namespace) -> list[Child]:
    environment = {
        **os.environ,
        "DIRACX_TASKS_NATS_URL": url,
        "DIRACX_TASKS_NAMESPACE": namespace.name,
        "DIRACX_TASKS_LOG_LEVEL": "debug",
        "DIRACX_TASKS_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }
    workers = [Child(size, ["worker", "--worker-size", size, "--stop-with-input"], environment) for size in Size]
    return [*workers, Child("scheduler", ["scheduler", "--stop-with-input"], environment)]


def _welcome(url: str, store: Path, namespace: Namespace, registry: TaskRegistry) -> list[str]:
    elsewhere = "" if url.endswith(f":{DEFAULT_PORT}") else f"export DIRACX_TASKS_NATS_URL={url}"
    other = "" if namespace.name == "diracx" else f"export DIRACX_TASKS_NAMESPACE={namespace.name}"
    tried = example(registry)
    program = Path(sys.argv[0]).name
    commands = [
        elsewhere,
        other,
        f"{program} tasks",
        f"{program} {tried}" if tried is not None else "",
        f"{program} status --watch",
        f"{program} schedule list",
        f"{program} dlq list",
        f"nats --server {url} stream report",
    ]
    return [
        f"nats-server on {url}, its streams in {store}",
        f"a worker of each size and the scheduler, {len(registry)} tasks installed; Ctrl-C ends all",
        "",
        "In another terminal:",
        *(f"  {command}" for command in commands if command),
        "",
    ]
