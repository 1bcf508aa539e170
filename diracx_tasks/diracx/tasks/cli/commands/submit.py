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
from diracx.tasks.cli.options import Access
from diracx.tasks.cli.processes.telemetry import telemetry_from
from diracx.tasks.cli.terminal.interaction import waiting
from diracx.tasks.cli.terminal.output import note, say
from diracx.tasks.cli.terminal.results import report
from diracx.tasks.cli.times import due_time
from diracx.tasks.plumbing.base_task import BaseTask
from diracx.tasks.plumbing.exceptions import ResultIsMissingError, ServerError
from diracx.tasks.plumbing.jetstream import JetStreamBroker
from diracx.tasks.plumbing.registry import RegisteredTask, TaskRegistry
from diracx.tasks.plumbing.results.record import ResultRecord
from diracx.tasks.plumbing.results.waiting import ResultReader


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
