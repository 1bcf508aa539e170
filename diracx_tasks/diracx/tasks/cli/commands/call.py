"""`diracx-task-run call`."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

from diracx.tasks.cli.access import namespace_of, settings_of
from diracx.tasks.cli.arguments import task_from
from diracx.tasks.cli.calling.execution import Call
from diracx.tasks.cli.containment import contained
from diracx.tasks.cli.declared.running import Debugger
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.processes.ending import FORCED_END_SECONDS
from diracx.tasks.cli.processes.signals import BrokenOff, StopSignals, interrupt_main_thread
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.plumbing.execution.job import (
    Dead,
    Discarded,
    Interrupted,
    LockBusy,
    Outcome,
    Retry,
    Succeeded,
)
from diracx.tasks.plumbing.execution.loops import run
from diracx.tasks.plumbing.injection.resources import Resources
from diracx.tasks.plumbing.wire.failure import message_of


def command(*, entry_point: str, args: str | None, kwargs: str | None, debugger: str, access: Access) -> int:
    registry, registered = installed_task(entry_point)
    task = task_from(registered, args, kwargs)
    resources = Resources()
    resources.prepare(registered.task_class, registered.name)
    resources.check()
    # The prompt of the debugger handles Ctrl-C itself.
    at_once = () if debugger == Debugger.NONE else (signal.SIGINT,)
    signals = StopSignals(interrupt_main_thread, at_once=at_once, end_after=FORCED_END_SECONDS)
    call = Call(registry, registered, resources.injector, Debugger(debugger), signals)
    settings, namespace = settings_of(access), namespace_of(access)

    async def execute() -> Outcome:
        signals.cancel_this_task()
        async with resources.opened():
            return await call.run(task, settings, namespace)

    number = None
    with contained(), signals.handled():
        try:
            outcome = run(execute(), on_escape=call.on_escape)
        except BrokenOff as error:
            number = error.number
        except asyncio.CancelledError:
            if signals.received is None:
                raise
    if (number := number or call.broken_off or signals.received) is not None:
        note(f"\ninterrupted by {number.name}")
        return 128 + number
    return report(outcome, call)


def report(outcome: Outcome, call: Call) -> int:
    """Print the outcome of a call; return the exit code."""
    match outcome:
        case Succeeded():
            say(f"Result: {message_of(outcome.value)}")
            return ExitCode.DONE
        case LockBusy():
            raise outcome.error
        case Interrupted():
            note(f"error: {outcome.reason}")
            return ExitCode.TASK_FAILED if call.begun else ExitCode.UNAVAILABLE
        case Retry() | Dead() | Discarded():
            note(call.describe_failure(outcome).rstrip())
            note(_next_step_of_a_worker(outcome))
    return ExitCode.TASK_FAILED


def _next_step_of_a_worker(outcome: Retry | Dead | Discarded) -> str:
    """Say what a worker would do, in a line. The failure itself stands above it."""
    failure = outcome.failure
    match outcome:
        case Retry():
            delay = max(0.0, (outcome.at - datetime.now(UTC)).total_seconds())
            return f"failed; a worker would retry it in {round(delay, 1):g} s"
        case Dead():
            next_step = "keep it as a dead letter"
        case Discarded():
            next_step = "drop it, since it is not dlq_eligible"
    assert failure is not None  # the code was executed
    reason = outcome.reason.removesuffix(f": {failure.type}: {failure.message}")
    return f"failed; a worker would {next_step}: {reason}"
