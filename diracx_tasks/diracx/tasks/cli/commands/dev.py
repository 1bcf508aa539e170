"""`diracx-task-run dev`: a whole mesh on this machine, for authors of tasks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, get_type_hints

import rich_click as click

from diracx.tasks.cli.commands.dashboard import missing_library
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import LogLine
from diracx.tasks.cli.processes.children import Child
from diracx.tasks.cli.terminal.output import note
from diracx.tasks.plumbing.base_task import PeriodicVoAwareBaseTask
from diracx.tasks.plumbing.embedded.server import USER, EmbeddedServer, EmbeddedServerError
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import MalformedTaskError
from diracx.tasks.plumbing.jetstream.connection.nats_contexts import write_context
from diracx.tasks.plumbing.jetstream.connection.server_urls import DEFAULT_PORT
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.jetstream.connection.sources import dev_context
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace

_SAMPLE_VALUES: Final[dict[Any, object]] = {str: "...", int: 1, float: 1.0, bool: False}


def command(*, port: int | None, store: Path, no_dashboard: bool, namespace: str) -> None:
    try:
        names = Namespace(namespace)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    asyncio.run(_run(port, store, names, installed_tasks(), dashboard=not no_dashboard))


@asynccontextmanager
async def embedded_server(ports: Sequence[int | None], store: Path) -> AsyncIterator[ConnectionSettings]:
    """Run a server on the first of the ports that it can take, for this user alone.

    Args:
        ports: None stands for any free port.

    Raises:
        EmbeddedServerError: It starts on none of them.
    """
    *taken, last = ports
    password = secrets.token_hex()
    async with AsyncExitStack() as stack:
        for port in taken:
            with suppress(EmbeddedServerError):
                server = await stack.enter_async_context(EmbeddedServer(port=port, store_dir=store, password=password))
                break
        else:
            server = await stack.enter_async_context(EmbeddedServer(port=last, store_dir=store, password=password))
        yield ConnectionSettings(servers=(server.address,), user=USER, password=password)


@contextmanager
def found_by_other_commands(settings: ConnectionSettings) -> Iterator[str]:
    """Write the context of the `nats` command for this server, and remove it at the end; yields its name.

    Raises:
        click.UsageError: It cannot be written.
    """
    (url,) = settings.servers
    name = dev_context(int(url.rpartition(":")[2]))
    values = {"url": url, "user": settings.user or "", "password": settings.password or ""}
    try:
        file = write_context(name, values, os.environ)
    except OSError as error:
        raise click.UsageError(
            f"the password of the server cannot be written: {error}; set XDG_CONFIG_HOME to a folder of yours"
        ) from None
    try:
        yield name
    finally:
        file.unlink(missing_ok=True)


async def _run(port: int | None, store: Path, namespace: Namespace, registry: TaskRegistry, *, dashboard: bool) -> None:
    async with embedded_server([DEFAULT_PORT, None] if port is None else [port], store) as server:
        with found_by_other_commands(server) as context:
            welcome = _welcome(server, context, store, namespace, registry)
            if dashboard and (lack := missing_library()) is not None:
                welcome += [f"no dashboard, since {lack} is not installed: pip install 'diracx-tasks[dashboard]'", ""]
                dashboard = False
            await _run_children(_children(server, namespace, dashboard=dashboard), welcome)


async def _run_children(children: list[Child], welcome: list[str]) -> None:
    def show(name: str, line: LogLine | str) -> None:
        note(f"{name:<9} {line}")

    for line in welcome:
        note(line)

    def stop() -> None:
        for child in children:
            child.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.run(show), name=child.name)
    note("all ended")


def _children(server: ConnectionSettings, namespace: Namespace, *, dashboard: bool) -> list[Child]:
    environment = {
        **os.environ,
        **server.as_variables(),
        "DIRACX_TASKS_NAMESPACE": namespace.name,
        "DIRACX_TASKS_LOG_LEVEL": "debug",
        "DIRACX_TASKS_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }
    workers = [Child(size, ["worker", "--worker-size", size, "--stop-with-input"], environment) for size in Size]
    children = [*workers, Child("scheduler", ["scheduler", "--stop-with-input"], environment)]
    if dashboard:
        # Its own log is not of use here: the link that it prints is.
        quiet = environment | {"DIRACX_TASKS_LOG_LEVEL": "warning"}
        children.append(Child("dashboard", ["dashboard", "--stop-with-input"], quiet))
    return children


def _welcome(
    server: ConnectionSettings, context: str, store: Path, namespace: Namespace, registry: TaskRegistry
) -> list[str]:
    (url,) = server.servers
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
        f"nats --context {context} stream report",
    ]
    return [
        f"nats-server on {url}, its streams in {store}, for you alone (context {context})",
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
