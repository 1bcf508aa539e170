"""Submits the tasks, a batch at a time, for as long as the killing goes on."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TextIO

from accounts import Submission
from chaos_tasks import Dies, GivesUp, Journaled, Quick, Recovers, Sleeps, Submits
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker

BATCH_SECONDS = 0.5
_DELAYED_SHARE = 0.05


def make(number: int, choose: random.Random) -> Journaled:
    """One task; most are done at once, as in life."""
    share = choose.random()
    if share < 0.55:
        return Quick(number)
    if share < 0.8:
        return Sleeps(number, round(choose.uniform(0.01, 1.0), 3))
    if share < 0.88:
        return Recovers(number, choose.randint(1, 2))
    if share < 0.92:
        return Dies(number)
    if share < 0.94:
        return GivesUp(number)
    return Submits(number)


class Producer:
    """Submits all tasks within a time.

    Args:
        tasks: How many.
        seconds: How long it may take.
        log: What was submitted, and when.
    """

    def __init__(self, broker: JetStreamBroker, tasks: int, seconds: float, choose: random.Random, log: TextIO) -> None:
        self._broker = broker
        self._tasks = [make(number, choose) for number in range(tasks)]
        self._seconds = seconds
        self._choose = choose
        self.submitted: dict[str, Submission] = {}
        """By id: what the server has acknowledged."""
        self._log = log
        self.unanswered = 0
        """Submissions that ended in an error: the task was submitted again, and may be there twice."""

    async def run(self) -> None:
        """Submit until everything is submitted."""
        batches = max(1, round(self._seconds / BATCH_SECONDS))
        size = -(-len(self._tasks) // batches)
        for first in range(0, len(self._tasks), size):
            async with asyncio.TaskGroup() as group:
                for task in self._tasks[first : first + size]:
                    group.create_task(self._submit(task))
                group.create_task(asyncio.sleep(BATCH_SECONDS))

    async def _submit(self, task: Journaled) -> None:
        delay = self._choose.uniform(0.5, 3) if self._choose.random() < _DELAYED_SHARE else None
        while True:
            at = None if delay is None else datetime.now(UTC) + timedelta(seconds=delay)
            due = None if delay is None else boottime() + delay
            try:
                task_id = await self._broker.submit(task, at_time=at)
            except SendTaskError as error:
                self.unanswered += 1
                self._log.write(f"{boottime():.3f} {task}: {error}\n")
            else:
                self.submitted[task_id] = Submission(type(task).__name__, due)
                self._log.write(f"{boottime():.3f} {task_id} {task} due {due}\n")
                return
