"""Pause and resume a queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from diracx.tasks.dashboard.actions import Choice, Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.words import plural
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.jetstream.consumer_pause import UNTIL_RESUMED, pause, pause_end_text, resume
from diracx.tasks.plumbing.operations.status_document import QueueStatus

DURATIONS: Final = {"": "until it is resumed", "900": "15 minutes", "3600": "1 hour", "28800": "8 hours"}
"""How long a pause may last: the seconds as the form carries them, and the text."""


async def _queue(mesh: Mesh, name: str) -> QueueStatus:
    reading = await mesh.reading.get()
    for queue in reading.snapshot.status.queues:
        if name == queue.name:
            if queue.missing:
                raise RefusedError(f"the queue {name} is missing: diracx-task-run setup creates it")
            return queue
    raise RefusedError(f"{shown(name)!r} is no queue")


class PauseQueue:
    """Stops the delivery of a queue's tasks."""

    name = "pause"

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        name = values.get("queue", "")
        queue = await _queue(mesh, name)
        ends = f"{plural(queue.in_hand, 'task that runs ends', 'tasks that run end')} as usual."
        lasts = [] if queue.paused_until is None else [f"It is paused until {pause_end_text(queue.paused_until)}."]
        return Plan(
            title=f"Pause {name}",
            sentences=[
                f"No worker gets further tasks of {name}: {plural(queue.waiting, 'task waits', 'tasks wait')} in it.",
                f"{ends} Producers can still submit tasks, as long as the queue has room.",
                *lasts,
            ],
            button="Pause it",
            back="/",
            values=[("queue", name)],
            choices=[Choice("seconds", "For how long", list(DURATIONS.items()))],
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        name, seconds = values.get("queue", ""), values.get("seconds", "")
        await _queue(mesh, name)
        if seconds not in DURATIONS:
            raise RefusedError("this duration is none of those on offer")
        now = mesh.connection.clock.now().replace(microsecond=0)
        until = now + timedelta(seconds=int(seconds)) if seconds else UNTIL_RESUMED
        await pause(mesh.connection, mesh.namespace.tasks_stream, name, until)
        return f"{name} is paused until {pause_end_text(until)}"


class ResumeQueue:
    """Lets the tasks of a paused queue go out again."""

    name = "resume"

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        name = values.get("queue", "")
        queue = await _queue(mesh, name)
        return Plan(
            title=f"Resume {name}",
            sentences=[
                f"Workers get the tasks of {name} again: {plural(queue.waiting, 'task waits', 'tasks wait')} in it."
            ],
            button="Resume it",
            back="/",
            values=[("queue", name)],
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        name = values.get("queue", "")
        queue = await _queue(mesh, name)
        await resume(mesh.connection, mesh.namespace.tasks_stream, name)
        return f"{name} was not paused" if queue.paused_until is None else f"{name} is resumed"
