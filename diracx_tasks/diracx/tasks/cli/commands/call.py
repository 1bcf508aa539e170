"""`diracx-task-run call`."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

import rich_click as click

from diracx.tasks.cli.access import namespace_of, settings_of
from diracx.tasks.cli.arguments import task_from
from diracx.tasks.cli.calling.calling import Call
from diracx.tasks.cli.calling.debugger import Debugger
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access, log_option, server_options, task_arguments
from diracx.tasks.cli.processes.interrupts import Interrupts
from diracx.tasks.plumbing.execution.job import (
    Dead,
    Discarded,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
)
from diracx.tasks.plumbing.injection.resources import Resources


@click.command("call")
@task_arguments
@click.option(
    "--debugger",
    type=click.Choice([choice.value for choice in Debugger]),
    default=Debugger.NONE.value,
    show_default=True,
    metavar="WHEN",
    help="When to open pdb: before, at the first line of execute(); exception, where one was raised; or none. Locks "
    "are kept meanwhile, and timeout_seconds is not applied.",
)
@log_option("warning")
@server_options
def command(*, entry_point: str, args: str | None, kwargs: str | None, debugger: str, access: Access) -> int:
    """Execute a task here and now, and print its result.

    One execution, with its dependencies and under its locks, but without rate and concurrency limiters. A failure is
    told with its traceback and what a worker would do about it, and is not retried. `Result:` is followed by the
    str() of what execute() returned.

    Where no server is reachable, one is started for this call alone. Its locks bind nobody else, and tasks cannot be
    submitted from within.
    """
    registry, registered = installed_task(entry_point)
    task = task_from(registered, args, kwargs)
    resources = Resources()
    resources.prepare(registered.task_class, registered.name)
    resources.check()
    call = Call(registry, registered, resources.injector, Debugger(debugger))
    interrupts = Interrupts(at_once=call.debugger is not Debugger.NONE)
    settings, namespace = settings_of(access), namespace_of(access)

    async def run() -> Outcome:
        interrupts.cancel_this_task()
        async with resources.opened():
            return await call.run(task, settings, namespace)

    with interrupts.handled():
        try:
            outcome = asyncio.run(run())
        except (asyncio.CancelledError, KeyboardInterrupt):
            if interrupts.received is None:
                raise
    if interrupts.received is not None:
        print(f"\ninterrupted by {interrupts.received.name}", file=sys.stderr)
        return 128 + interrupts.received
    return report(outcome, call)


def report(outcome: Outcome, call: Call) -> int:
    """Tell what became of a call; return the exit code."""
    match outcome:
        case Succeeded():
            print(f"Result: {outcome.value}")
            return ExitCode.DONE
        case LockBusy():
            raise outcome.error
        case Interrupted():
            print(f"error: {outcome.reason}", file=sys.stderr)
            return ExitCode.TASK_FAILED if call.begun else ExitCode.UNAVAILABLE
        case Retry() | Dead() | Discarded():
            print(call.story(outcome).rstrip(), file=sys.stderr)
            print(_what_a_worker_would_do(outcome), file=sys.stderr)
    return ExitCode.TASK_FAILED


def _what_a_worker_would_do(outcome: Retry | Dead | Discarded) -> str:
    match outcome:
        case Retry():
            delay = max(0.0, (outcome.at - datetime.now(UTC)).total_seconds())
            return f"failed; a worker would retry it in {round(delay, 1):g} s"
        case Dead():
            return f"failed; a worker would keep it as a dead letter: {outcome.reason}"
    return f"failed; a worker would drop it, since it is not dlq_eligible: {outcome.reason}"
