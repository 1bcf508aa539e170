"""Cancel a task."""

from __future__ import annotations

from collections.abc import Iterator

from diracx.tasks.dashboard.actions import Job, Plan, RefusedError, Values
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.words import plural
from diracx.tasks.plumbing.cancellations.note import Kind
from diracx.tasks.plumbing.exceptions import shown
from diracx.tasks.plumbing.operations.cancellation import Answer, Canceller, Target
from diracx.tasks.plumbing.operations.task_document import State, TaskDocument
from diracx.tasks.plumbing.wire.times import readable_time

_EFFECTS = {
    State.DELAYED: "It was submitted for later: it is withdrawn.",
    State.WAITING: "It waits in its queue: it is dropped when its turn comes.",
    State.PARKED: "It waits for a retry or a lock: it is dropped when its turn comes.",
    State.RUNNING: "It runs: its code is told to end. What it has done so far, outside of its transaction, stays done.",
}


class CancelTask:
    """Cancels one task by its id."""

    name = "cancel"

    async def plan(self, mesh: Mesh, values: Values) -> Plan:
        """See `Action.plan`."""
        wanted = values.get("id", "")
        if not wanted:
            raise RefusedError("no task is named")
        task = await mesh.lookup.find(wanted)
        if task.state not in _EFFECTS:
            raise RefusedError(f"{shown(wanted)} cannot be cancelled: {'; '.join(task.why)}")
        return Plan(
            title=f"Cancel {shown(wanted)}",
            sentences=[_named(task), _EFFECTS[task.state], *_consequences(task)],
            button="Cancel the task",
            back=f"/task?{Values({'id': wanted})}",
            values=[("id", wanted)],
            dangerous=True,
        )

    async def carry_out(self, mesh: Mesh, values: Values, job: Job) -> str:
        """See `Action.carry_out`."""
        wanted = values.get("id", "")
        (answer,) = await Canceller(mesh.connection, mesh.namespace, by=job.by).cancel([Target(Kind.ID, wanted)])
        said = "; ".join(_met(answer)) or "it is not there any more: it has ended. If it comes yet, it is dropped"
        job.failed = not answer.done
        return said


def _named(task: TaskDocument) -> str:
    return f"{task.task} is cancelled: no worker begins it again." if task.task else "No worker begins it again."


def _consequences(task: TaskDocument) -> Iterator[str]:
    if task.group is not None:
        yield f"It is a child of the group {task.group}, which counts it as cancelled."
    waiting = sum(group.counts.get("waiting", 0) for group in task.groups)
    if waiting:
        yield f"{plural(waiting, 'child', 'children')} of it that have not ended are not cancelled with it."


def _met(answer: Answer) -> Iterator[str]:
    for each in answer.running:
        yield f"it was told to end, and still runs on {each.worker} since {readable_time(each.since)}"
    if answer.waiting and answer.until is not None:
        yield f"it is dropped at {readable_time(answer.until)}, when its retry is due"
    elif answer.waiting:
        yield "it is dropped when its turn comes"
    elif answer.withdrawn:
        yield "it is withdrawn"
    elif answer.cancelled:
        yield "it is cancelled, and has ended"
    elif answer.finished:
        yield "it was running, and has finished all the same"
    for sequence in answer.dead_letters:
        yield f"it is dead letter {sequence}, which stays"
