"""`diracx-task-run worker`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from datetime import timedelta

from diracx.tasks.cli.access import connection_name, namespace_of, settings_of
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_tasks
from diracx.tasks.cli.logs import name_worker
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.processes.children import stop_when_input_ends
from diracx.tasks.cli.processes.ending import FORCED_END_SECONDS, before_force
from diracx.tasks.cli.processes.event_loop import loop_factory
from diracx.tasks.cli.processes.health import health_endpoint
from diracx.tasks.cli.processes.signals import StopSignals
from diracx.tasks.cli.processes.telemetry import telemetry_from
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
from diracx.tasks.plumbing.wire.process_id import process_id
from diracx.tasks.plumbing.worker import Worker, WorkerSettings
from diracx.tasks.plumbing.worker.settings import DEFAULT_SLOTS
from diracx.tasks.plumbing.worker.snapshot import Counters

logger = logging.getLogger("diracx.tasks.worker")


def command(
    *,
    size: str,
    slots: int | None,
    burst: bool,
    grace: timedelta,
    lock_retry_delay: timedelta,
    loop: str,
    stop_with_input: bool,
    health_host: str,
    health_port: int | None,
    access: Access,
) -> ExitCode:
    new_loop = loop_factory(loop)
    health_address = None if health_port is None else (health_host, health_port)
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
    with telemetry_from(os.environ, f"{namespace.name}-worker", process_id(settings.size)):
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
        last_resort=last_resort,
        outages=resources.outages,
        counters=counters,
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
