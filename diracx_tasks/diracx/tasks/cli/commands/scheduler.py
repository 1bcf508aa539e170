"""`diracx-task-run scheduler`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from datetime import timedelta

import rich_click as click

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import name_worker
from diracx.tasks.cli.options import Access, Seconds, log_option, server_options
from diracx.tasks.cli.processes.children import stop_when_input_ends
from diracx.tasks.cli.processes.health import health_door, health_options
from diracx.tasks.cli.processes.stop_signals import StopSignals
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.operations.scheduler_service import SchedulerHealth, advertised
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.leadership import DEFAULT_TAKEOVER
from diracx.tasks.plumbing.scheduler.scheduler import scheduler_id
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace

logger = logging.getLogger("diracx.tasks.scheduler")


@click.command("scheduler")
@click.option(
    "--vo",
    "vos",
    metavar="NAME",
    multiple=True,
    help="A virtual organisation; repeatable. In place of those of the configuration and of DiracX.",
)
@click.option(
    "--takeover",
    type=Seconds(),
    default=f"{DEFAULT_TAKEOVER.total_seconds():g}",
    show_default=True,
    metavar="SECONDS",
    help="Within which a leader that vanished is replaced; 5 or more. Occurrences are with the server for at least "
    "twice that time ahead.",
)
@health_options
@click.option("--stop-with-input", is_flag=True, hidden=True, help="Stop when standard input ends.")
@log_option("info")
@server_options
def command(
    *,
    vos: Sequence[str],
    takeover: timedelta,
    stop_with_input: bool,
    health_host: str,
    health_port: int | None,
    access: Access,
) -> None:
    """Submit periodic tasks on their schedules.

    Run as many as you like, with the same options: one leads, the others stand by. SIGTERM and Ctrl-C make it give
    up the leadership and end.

    Tasks that run per VO get an instance for each VO: of --vo; else of `vos:` in the configuration; else of the DiracX
    configuration (DIRACX_CONFIG_BACKEND_URL).
    """
    if stop_with_input:
        stop_when_input_ends()
    try:
        settings = SchedulerSettings(takeover=takeover)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=["--takeover"]) from None
    if "" in vos:
        raise click.BadParameter("the name of a VO is empty", param_hint=["--vo"])
    door = None if health_port is None else (health_host, health_port)
    asyncio.run(
        _serve(
            settings_of(access),
            namespace_of(access),
            installed_tasks(tell=logger.warning),
            VirtualOrganisations(vos),
            settings,
            door,
        )
    )


async def _serve(
    access: ConnectionSettings,
    namespace: Namespace,
    registry: TaskRegistry,
    vos: VirtualOrganisations,
    settings: SchedulerSettings,
    door: tuple[str, int] | None,
) -> None:
    signals = StopSignals()
    with signals.handled(), telemetry_from(os.environ, f"{namespace.name}-scheduler", scheduler_id()):
        try:
            async with JetStreamBroker.connect(
                settings=access,
                namespace=namespace.name,
                registry=registry,
                name=connection_name("scheduler"),
                role="scheduler",
            ) as broker:
                scheduler = Scheduler(broker.connection, namespace, registry, vos, settings)
                periodic = sum(task.periodic for task in registry)
                logger.info("%s: %d periodic tasks known, namespace %s", scheduler.id, periodic, namespace.name)
                signals.stop_worker(scheduler)
                name_worker(scheduler.id)
                async with (
                    health_door(SchedulerHealth(broker.connection), door),
                    advertised(scheduler, broker.connection, namespace),
                ):
                    await scheduler.run()
                logger.info("%s: ended after %d occurrences", scheduler.id, scheduler.published)
        except asyncio.CancelledError:
            # Stopped while it still connected: nothing is held.
            if not signals.count:
                raise
