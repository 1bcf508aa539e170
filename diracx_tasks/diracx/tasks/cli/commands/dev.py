"""`diracx-task-run dev`: a whole mesh on this machine, for authors of tasks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, get_type_hints

import rich_click as click

from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import LogLine
from diracx.tasks.cli.options import Number, namespace_option, panels
from diracx.tasks.cli.processes.children import Child
from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.embedded.server import EmbeddedServer
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace

DEFAULT_PORT: Final = 4222
_SAMPLE_VALUES: Final[dict[Any, object]] = {str: "...", int: 1, float: 1.0, bool: False}


@click.command("dev")
@click.option(
    "--port",
    type=Number(1, 65535),
    metavar="PORT",
    help=f"The port of the server; {DEFAULT_PORT} by default, or a free port if it is taken.",
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".diracx-tasks"),
    show_default=True,
    metavar="FOLDER",
    help="The folder in which the server keeps its streams from one run to the next.",
)
@namespace_option
@panels
def command(*, port: int | None, store: Path, namespace: str) -> None:
    """Run a server, one worker of each size and a scheduler, until Ctrl-C.

    Submitted tasks survive a restart, in the folder of --store. Workers load changed code when this command is started
    again.
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
    def show(name: str, line: LogLine | str) -> None:
        print(f"{name:<9} {line}", file=sys.stderr)

    async with EmbeddedServer(port=port, store_dir=store) as server:
        children = _children(server.url, namespace)
        for line in _welcome(server.url, store, namespace, registry):
            print(line, file=sys.stderr)

        def stop() -> None:
            for child in children:
                child.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.run(show), name=child.name)
        print("all ended", file=sys.stderr)


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
    set_url = "" if url.endswith(f":{DEFAULT_PORT}") else f"export DIRACX_TASKS_NATS_URL={url}"
    set_namespace = "" if namespace.name == "diracx" else f"export DIRACX_TASKS_NAMESPACE={namespace.name}"
    trial = example(registry)
    program = Path(sys.argv[0]).name
    commands = [
        set_url,
        set_namespace,
        f"{program} tasks",
        f"{program} {trial}" if trial is not None else "",
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


def example(registry: TaskRegistry) -> str | None:
    """Return the arguments of a command that tries an installed task; None if no task is installed.

    Tasks that are submitted by hand come first, and among them tasks whose fields can be filled in.
    """
    tasks = list(registry)
    by_hand = [task for task in tasks if not task.periodic]
    for task in by_hand:
        if (fields := _fields(task)) is not None:
            return f"submit {task.name}" + (f" --kwargs '{json.dumps(fields)}'" if fields else "")
    if by_hand:
        return f"submit {by_hand[0].name} --kwargs '{{...}}'"
    for task in tasks:
        per_vo = issubclass(task.task_class, PeriodicVoAwareBaseTask)
        return f"schedule run {task.name}" + (" --vo NAME" if per_vo else "")
    return None


def _fields(task: RegisteredTask) -> dict[str, object] | None:
    """Return a value for each field without a default; None if only the author knows a valid one."""
    kinds = get_type_hints(task.task_class)
    needed = [
        field.name
        for field in task.codec.fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if any(kinds[name] not in _SAMPLE_VALUES for name in needed):
        return None
    values = {name: _SAMPLE_VALUES[kinds[name]] for name in needed}
    try:
        task.codec.from_arguments([], values)
    except MalformedTaskError:
        return None
    return values
