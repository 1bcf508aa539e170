"""Submits the tasks in batches while the run is disturbed."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TextIO

from accounts import Submission
from chaos_tasks import UNRULY, Dies, GivesUp, Journaled, Locked, Quick, Recovers, Sleeps, Spawns, Submits, Urgent
from diracx.tasks.plumbing.clock import boottime
from diracx.tasks.plumbing.exceptions import SendTaskError
from diracx.tasks.plumbing.jetstream import JetStreamBroker

BATCH_SECONDS = 0.5
DELAYED_SHARE = 0.05
URGENT_SHARE = 0.5
"""Of the delayed tasks."""
LOCKS = 5
"""How many mutexes tasks contend for."""


def make(number: int, choose: random.Random) -> Journaled:
    """A task of a random kind; most succeed at once, and a few misbehave."""
    share = choose.random()
    if share < 0.51:
        return Quick(number)
    if share < 0.55:
        return choose.choice(UNRULY)(number)
    if share < 0.59:
        return Locked(number, choose.randrange(LOCKS), round(choose.uniform(0.01, 0.3), 3))
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
    """Submits all tasks within a given time.

    Args:
        tasks: How many.
        groups: How many of them spawn a group, with how many children.
        seconds: The time over which the submissions are spread.
        log: Gets a line for each submission.
    """

    def __init__(
        self,
        broker: JetStreamBroker,
        tasks: int,
        groups: tuple[int, int],
        seconds: float,
        choose: random.Random,
        log: TextIO,
    ) -> None:
        self._broker = broker
        count, children = groups
        parents = [Spawns(number, children, choose.randrange(1_000_000)) for number in range(tasks - count, tasks)]
        self._tasks = [*(make(number, choose) for number in range(tasks - count)), *parents]
        choose.shuffle(self._tasks)
        self._seconds = seconds
        self._choose = choose
        self.submitted: dict[str, Submission] = {}
        """The submissions that the server has acknowledged, by task id."""
        self._log = log
        self.errors: list[str] = []
        """The errors of submissions; each was repeated, so the server may have the task twice."""

    async def run(self) -> None:
        """Submit all tasks."""
        batches = max(1, round(self._seconds / BATCH_SECONDS))
        size = -(-len(self._tasks) // batches)
        for first in range(0, len(self._tasks), size):
            async with asyncio.TaskGroup() as group:
                for task in self._tasks[first : first + size]:
                    group.create_task(self._submit(task))
                group.create_task(asyncio.sleep(BATCH_SECONDS))

    async def _submit(self, task: Journaled) -> None:
        delay = self._choose.uniform(0.5, 3) if self._choose.random() < DELAYED_SHARE else None
        if delay is not None and not isinstance(task, Spawns) and self._choose.random() < URGENT_SHARE:
            task = Urgent(task.number)
        while True:
            at = None if delay is None else datetime.now(UTC) + timedelta(seconds=delay)
            due = None if delay is None else boottime() + delay
            try:
                task_id = await self._broker.submit(task, at_time=at)
            except SendTaskError as error:
                self.errors.append(str(error))
                self._log.write(f"{boottime():.3f} {task}: {error}\n")
            else:
                self.submitted[task_id] = Submission(type(task).__name__, due)
                self._log.write(f"{boottime():.3f} {task_id} {task} due {due}\n")
                return
