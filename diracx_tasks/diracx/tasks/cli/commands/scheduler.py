"""`diracx-task-run scheduler`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import rich_click as click

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import name_worker
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.processes.children import stop_when_input_ends
from diracx.tasks.cli.processes.ending import FORCED_END_SECONDS, end_within
from diracx.tasks.cli.processes.event_loop import loop_factory
from diracx.tasks.cli.processes.health import health_endpoint
from diracx.tasks.cli.processes.signals import StopSignals
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.operations.history import keeping_history
from diracx.tasks.plumbing.operations.scheduler_service import SchedulerHealth, advertised
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.scheduler import Scheduler, SchedulerSettings
from diracx.tasks.plumbing.scheduler.scheduler import STOP_SECONDS
from diracx.tasks.plumbing.scheduler.vos import VirtualOrganisations
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.wire.process_id import process_id

logger = logging.getLogger("diracx.tasks.scheduler")

CLOSE_SECONDS: Final = 10.0
"""The time that a scheduler has to close its connections once it has given up the leadership."""


def command(
    *,
    vos: Sequence[str],
    takeover: timedelta,
    loop: str,
    stop_with_input: bool,
    health_host: str,
    health_port: int | None,
    access: Access,
) -> None:
    new_loop = loop_factory(loop)
    health_address = None if health_port is None else (health_host, health_port)
    if stop_with_input:
        stop_when_input_ends()
    try:
        settings = SchedulerSettings(takeover=takeover)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=["--takeover"]) from None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(
            _serve(
                settings_of(access),
                namespace_of(access),
                installed_tasks(warn=logger.warning),
                VirtualOrganisations(vos),
                settings,
                health_address,
            )
        )


async def _serve(
    access: ConnectionSettings,
    namespace: Namespace,
    registry: TaskRegistry,
    vos: VirtualOrganisations,
    settings: SchedulerSettings,
    health_address: tuple[str, int] | None,
) -> None:
    signals = StopSignals(end_after=STOP_SECONDS + CLOSE_SECONDS + FORCED_END_SECONDS, end_code=ExitCode.DONE)
    signals.cancel_this_task()
    with signals.handled(), telemetry_from(os.environ, f"{namespace.name}-scheduler", process_id("scheduler")):
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
                signals.on_signal(scheduler.stop, scheduler.stop_now)
                name_worker(scheduler.id)
                async with (
                    health_endpoint(SchedulerHealth(scheduler, broker.connection), health_address),
                    advertised(scheduler, broker.connection, namespace),
                    keeping_history(scheduler, broker.connection, namespace),
                ):
                    try:
                        await scheduler.run()
                    finally:
                        # A server that hangs holds up nothing.
                        code = ExitCode.BUG if signals.received is None else ExitCode.DONE
                        end_within(CLOSE_SECONDS, code, f"the connections were not closed within {CLOSE_SECONDS:g} s")
                logger.info("%s: ended after %d occurrences", scheduler.id, scheduler.published)
        except asyncio.CancelledError:
            # A signal came before the connection was up; nothing is held.
            if signals.received is None:
                raise
