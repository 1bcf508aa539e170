"""`diracx-task-run submit`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import rich_click as click

from diracx.tasks.cli.access import connection_name, producer
from diracx.tasks.cli.arguments import labels_from, task_from
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.cli.installed import installed_task
from diracx.tasks.cli.options import Access, declared, log_option, server_options, task_arguments
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.cli.terminal.interaction import waiting
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.cli.terminal.results import report
from diracx.tasks.cli.times import Seconds, due_time
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.results.waiting import ResultReader


@declared("submit")
@task_arguments
@click.option(
    "--at", metavar="TIME", help="The time to run the task, RFC 3339 with an offset or Z. A past time means now."
)
@click.option("--delay", metavar="SECONDS", type=Seconds(), help="Run the task after this many seconds.")
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, help="A label to store with the task; repeatable."
)
@click.option("--wait", is_flag=True, help="Keep the result for a day, wait until the task has ended, and print it.")
@click.option(
    "--timeout", metavar="SECONDS", type=Seconds(), help="With --wait: wait no longer. The task stays submitted."
)
@log_option("warning")
@server_options
def command(
    *,
    entry_point: str,
    args: str | None,
    kwargs: str | None,
    at: str | None,
    delay: timedelta | None,
    labels: Sequence[str],
    wait: bool,
    timeout: timedelta | None,
    access: Access,
) -> int:
    """Submit a task to the workers, and print its id.

    The command prints the id, and nothing else on standard output, after the server has stored the task.

    With --wait the id goes to standard error. Then the command waits until the task has ended, and prints its result
    and exits as `call` does: with 1 if the task has failed for good, expired or was cancelled, or if it has not ended
    within --timeout. Ctrl-C ends the command, not the task: `task ID` shows where it is, and `result ID` its result.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout belongs to --wait")
    registry, registered = installed_task(entry_point)
    task = task_from(registered, args, kwargs)
    submission = _Submission(access, registry, registered, task, labels_from(labels))
    with telemetry_from(os.environ, f"{access.namespace}-producer", connection_name("producer", "submit")):
        due = due_time(at, delay)
        if not wait:
            say(asyncio.run(submission.submit(due)))
            return ExitCode.DONE
        try:
            return report(asyncio.run(submission.wait(due, timeout)))
        except (KeyboardInterrupt, ResultIsMissingError, ServerError) as error:
            if submission.id is not None:
                id_ = submission.id  # a producer may not use `task`, which asks the workers
                note(f"{id_} stays submitted; see `diracx-task-run result {id_}`, or as operator `task {id_}`")
            if not isinstance(error, ResultIsMissingError):
                raise
            note(f"error: {error}")
            return ExitCode.TASK_FAILED


@dataclass
class _Submission:
    """One task to submit."""

    access: Access
    registry: TaskRegistry
    registered: RegisteredTask
    task: BaseTask
    labels: Mapping[str, str]
    id: str | None = None
    """Once the server has stored it."""

    async def submit(self, due: datetime | timedelta | None) -> str:
        """Submit it; return its id."""
        async with producer(self.access, self.registry, "submit") as broker:
            return await self._submit(broker, due, None)

    async def wait(self, due: datetime | timedelta | None, timeout: timedelta | None) -> ResultRecord:
        """Submit it, tell its id, and wait for its result."""
        async with producer(self.access, self.registry, "submit") as broker:
            # A class that keeps results says for how long.
            task_id = await self._submit(broker, due, self.registered.task_class.result_ttl_seconds is None)
            note(f"submitted {self.registered.name} as {task_id}")
            with waiting(f"waiting for {self.registered.name}"):
                reader = ResultReader(broker.connection, broker.namespace)
                return await reader.wait(task_id, None if timeout is None else timeout.total_seconds())

    async def _submit(self, broker: JetStreamBroker, due: datetime | timedelta | None, keep: bool | None) -> str:
        if isinstance(due, timedelta):
            due = broker.connection.clock.now() + due  # the clock of this machine may be wrong
        name = self.registered.name
        self.id = await broker.submit(self.task, at_time=due, labels=self.labels, keep_result=keep, name=name)
        return self.id
