"""`diracx-task-run worker`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from datetime import timedelta
from typing import Final

import rich_click as click

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import name_worker
from diracx.tasks.cli.options import Access, Number, declared, log_option, server_options
from diracx.tasks.cli.processes.children import stop_when_input_ends
from diracx.tasks.cli.processes.ending import FORCED_END_SECONDS, before_force
from diracx.tasks.cli.processes.event_loop import loop_option
from diracx.tasks.cli.processes.health import health_endpoint, health_options
from diracx.tasks.cli.processes.signals import StopSignals
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.cli.times import Seconds
from diracx.tasks.plumbing.enums import Size
from diracx.tasks.plumbing.exceptions import TaskDefinitionError
from diracx.tasks.plumbing.execution.last_resort import LastResort, end_process
from diracx.tasks.plumbing.execution.loops import LoopFactory, run
from diracx.tasks.plumbing.execution.thread import ExecutionThreads, blame_escape, executing
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.jetstream.connection.settings import ConnectionSettings
from diracx.tasks.plumbing.operations.worker_service import WorkerHealth, advertised
from diracx.tasks.plumbing.registry import TaskRegistry
from diracx.tasks.plumbing.wire.names import Namespace
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.plumbing.worker.settings import DEFAULT_SLOTS, worker_id
from diracx.tasks.plumbing.worker.snapshot import Counters

MAX_SLOTS: Final = 100_000
"""More tasks at once are a typing error."""

logger = logging.getLogger("diracx.tasks.worker")


@declared("worker")
@click.option(
    "--worker-size",
    "size",
    type=click.Choice([size.value for size in Size]),
    required=True,
    metavar="SIZE",
    help="The size of the tasks to execute: small, medium or large.",
)
@click.option(
    "--max-concurrent-tasks",
    "slots",
    type=Number(1, MAX_SLOTS),
    metavar="N",
    help=f"The number of tasks at once; {', '.join(f'{slots} for {size}' for size, slots in DEFAULT_SLOTS.items())}.",
)
@click.option("--burst", is_flag=True, help="End when no due task is left.")
@click.option(
    "--grace",
    type=Seconds(),
    default="30",
    show_default=True,
    metavar="SECONDS",
    help="The time that running tasks have to end after a signal.",
)
@click.option(
    "--lock-retry-delay",
    type=Seconds(),
    default="5",
    show_default=True,
    metavar="SECONDS",
    help="The first wait of a task whose lock is held, give or take a quarter. It grows up to a minute.",
)
@loop_option
@health_options
@click.option("--stop-with-input", is_flag=True, hidden=True, help="Stop when standard input ends.")
@log_option("info")
@server_options
def command(
    *,
    size: str,
    slots: int | None,
    burst: bool,
    grace: timedelta,
    lock_retry_delay: timedelta,
    new_loop: LoopFactory,
    stop_with_input: bool,
    health_address: tuple[str, int] | None,
    access: Access,
) -> ExitCode:
    """Execute submitted tasks of one size.

    SIGTERM and Ctrl-C stop the worker: it begins no more tasks and gives running tasks the grace period. Tasks that
    have not ended by then are cancelled and given back to other workers, which does not count as a retry. A second
    signal ends the grace period at once.
    """
    if stop_with_input:
        stop_when_input_ends()
    registry, resources = installed_tasks(warn=logger.warning), Resources()
    _prepare(registry, resources, Size(size))
    settings = WorkerSettings(
        size=Size(size),
        max_concurrent_tasks=slots or DEFAULT_SLOTS[Size(size)],
        burst=burst,
        grace=grace,
        lock_retry_delay=lock_retry_delay,
    )
    server, namespace = settings_of(access), namespace_of(access)
    signals = StopSignals(end_after=grace.total_seconds() + FORCED_END_SECONDS, end_code=ExitCode.DONE)
    with signals.handled():
        serving = _serve(signals, server, namespace, registry, resources, settings, health_address, new_loop)
        return run(serving, new_loop, blame_escape)


def _prepare(registry: TaskRegistry, resources: Resources, size: Size) -> None:
    """Check the task classes of this size before the first task runs. Broken ones are logged and not served."""
    for task in list(registry):
        if task.task_class.size is not size:
            continue
        try:
            resources.prepare(task.task_class, task.name)
        except TaskDefinitionError as error:
            registry.withdraw(task.name, str(error))
            logger.error("not served: %s: %s", task.name, error)


async def _serve(
    signals: StopSignals,
    access: ConnectionSettings,
    namespace: Namespace,
    registry: TaskRegistry,
    resources: Resources,
    settings: WorkerSettings,
    health_address: tuple[str, int] | None,
    new_loop: LoopFactory,
) -> ExitCode:
    signals.cancel_this_task()
    last_resort = LastResort(lambda: end_process(ExitCode.DONE if signals.received else ExitCode.STUCK))
    with telemetry_from(os.environ, f"{namespace.name}-worker", worker_id(settings.size)):
        try:
            async with (
                JetStreamBroker.connect(
                    settings=access,
                    namespace=namespace.name,
                    registry=registry,
                    name=connection_name("worker", settings.size),
                    role="worker",
                ) as broker,
                executing(settings.size, resources, new_loop) as threads,
            ):
                counters = Counters()
                worker = _worker(broker, resources, settings, threads, counters, last_resort)
                before_force.append(worker.abandon_from_thread)
                signals.on_signal(worker.stop, worker.stop_now)
                # What the process is made of stays until its end. A collection need not look at it again and again:
                # that costs as much as a short task, as soon as tasks wait for anything.
                gc.freeze()
                await _run(worker, counters, broker, health_address)
        except asyncio.CancelledError:
            # After a signal: it came before the connection was up, and nothing is in flight.
            if signals.received is None:
                logger.critical("code in this process cancelled the worker itself: it ends")
                return ExitCode.STUCK
    return ExitCode.DONE if last_resort.reason is None else ExitCode.STUCK


def _worker(
    broker: JetStreamBroker,
    resources: Resources,
    settings: WorkerSettings,
    threads: ExecutionThreads | None,
    counters: Counters,
    last_resort: LastResort,
) -> Worker:
    return Worker(
        broker.connection,
        broker.namespace,
        broker.registry,
        resources.injector,
        settings,
        invoke=None if threads is None else threads.invoke,
        on_outcome=counters.record,
        last_resort=last_resort,
        outages=resources.outages,
    )


async def _run(
    worker: Worker, counters: Counters, broker: JetStreamBroker, health_address: tuple[str, int] | None
) -> None:
    name_worker(worker.id)
    slots = worker.settings.max_concurrent_tasks
    logger.info(
        "%s: %d %s, %d tasks known, namespace %s",
        worker.id,
        slots,
        "slot" if slots == 1 else "slots",
        len(broker.registry),
        broker.namespace.name,
    )
    async with (
        health_endpoint(WorkerHealth(worker, broker.connection), health_address),
        advertised(worker, counters, broker.connection, broker.namespace),
    ):
        await worker.run()
    logger.info("%s: ended after %d deliveries", worker.id, worker.processed)
