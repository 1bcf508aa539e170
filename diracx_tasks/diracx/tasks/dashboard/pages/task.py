"""One task: where it is, why it does not run, and what happened to it so far, as a time line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.datastructures import QueryParams

from diracx.tasks.dashboard import words
from diracx.tasks.dashboard.mesh import Mesh
from diracx.tasks.dashboard.pages import Page, View
from diracx.tasks.plumbing.operations.past_deliveries import past_events
from diracx.tasks.plumbing.operations.task_document import State, TaskDocument
from diracx.tasks.plumbing.wire.times import readable_time

CANCELLABLE: Final = (State.DELAYED, State.WAITING, State.PARKED, State.RUNNING)
"""Where a task may be so that it can be cancelled."""
MAX_HOLDERS: Final = 5
"""So many holders of a lock are named; a limiter may have many."""
MAX_CHILDREN: Final = 200
"""A group links to so many of its children, and to the last one."""
_CALLBACKS: Final = {
    None: "runs after the last of them",
    "complete": "was released after the last of them",
    "expired": "was released since the time of the group was over",
    "cancelled": "was withdrawn by an operator",
}
"""What became of the callback of a group, by how the group has ended."""
_STYLES: Final = {State.RUNNING: "busy", State.DEAD: "bad", State.PARKED: "warning"}
_STYLES_OF_RESULTS: Final = {None: "good", "succeeded": "good", "failed": "bad"}
"""Of tasks that are done; others have ended without having run."""


@dataclass(frozen=True, slots=True)
class Event:
    """One point of the time line."""

    at: datetime | None
    """None: the time is not known, or it is now."""
    text: str
    kind: str = ""
    """`good`, `bad`, `now`, `later`, or nothing."""
    details: str = ""
    """A traceback."""


def style_of(task: TaskDocument) -> str:
    """The class of the tag that says how a task is."""
    if task.state is State.DONE:
        return _STYLES_OF_RESULTS.get(task.status, "warning")
    return _STYLES.get(task.state, "")


def time_line(task: TaskDocument) -> list[Event]:
    """What happened to a task so far, the earliest first, and what is to come."""
    events = list(_past(task))
    # Its submission comes first, also where the clocks of the producer and the worker differ by a little.
    begins = [] if task.submitted is None else [events.pop(0)]
    dated = [(event.at, at, event) for at, event in enumerate(events) if event.at is not None]
    undated = [event for event in events if event.at is None]
    return [*begins, *(event for *_, event in sorted(dated)), *undated, *_present(task), *_to_come(task)]


def _past(task: TaskDocument) -> Iterator[Event]:
    if task.submitted is not None:
        yield Event(task.submitted, "submitted" if task.parent is None else f"submitted by {task.parent}")
    if task.due is not None and task.state is not State.DELAYED:
        yield Event(task.due, "fell due")
    if task.replayed is not None:
        yield Event(task.replayed, "replayed: put back into its queue after it was a dead letter")
    known = len(task.errors)
    for number, error in enumerate(task.errors, start=task.attempts - known + 1):
        where = f" on {error.worker}" if error.worker else ""
        text = f"attempt {number} failed{where}: {error.type}: {error.message}"
        yield Event(error.at, text, "bad", error.traceback)
    for event in past_events(task):
        yield Event(event.at, event.text, "bad" if event.failed else "")
    if task.cancelled is not None:
        by = f" by {task.cancelled.by}" if task.cancelled.by else ""
        yield Event(task.cancelled.at, f"cancelled{by} ({task.cancelled.kind})", "bad")
    if task.dead_letter is not None:
        yield Event(
            task.dead_letter.died, f"became dead letter {task.dead_letter.seq}: {task.dead_letter.reason}", "bad"
        )
    for group in task.groups:
        if group.parent == task.id:
            yield Event(group.spawned, f"spawned group {group.id} of {group.children} children")
    if task.result is not None:
        kind = "good" if task.result.status == "succeeded" else "bad"
        where = f" on {task.result.worker}" if task.result.worker else ""
        yield Event(task.result.ended, f"ended: {task.result.status}{where}", kind)


def _present(task: TaskDocument) -> Iterator[Event]:
    for running in task.running:
        told = f"; it was told to end: {running.cancelled_for}" if running.cancelled_since is not None else ""
        text = f"attempt {running.attempt}, {running.state} on {running.worker}{told}"
        yield Event(running.since, text, "now")
    for lock in task.locks:
        held = [f"{holder.task} {holder.id} since {readable_time(holder.since)}" for holder in lock.holders]
        yield Event(None, f"waits for the lock {lock.key}, held by {_listed(held) or 'somebody'}", "now")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_HOLDERS
    return ", ".join(names[:MAX_HOLDERS]) + (f" and {more} more" if more > 0 else "")


def _to_come(task: TaskDocument) -> Iterator[Event]:
    if task.until is not None:
        yield Event(task.until, "runs at the earliest", "later")
    if task.expires is not None and task.state in CANCELLABLE:
        yield Event(task.expires, "expires if no worker has taken it", "later")


async def view(mesh: Mesh, query: QueryParams) -> View:
    """The variables of the page."""
    wanted = query.get("id", "")
    if not wanted:
        return {"task": None}
    task = await mesh.lookup.find(wanted)
    return {
        "task": task,
        "style": style_of(task),
        "events": time_line(task),
        "most_children": MAX_CHILDREN,
        "callbacks": _CALLBACKS,
        "args": words.pretty(task.args),
        "value": None if task.result is None or task.result.value is None else words.pretty(task.result.value),
        "cancellable": task.state in CANCELLABLE and task.cancelled is None,
        "upcoming": task.until is not None and task.until > mesh.connection.clock.now(),
    }


PAGE = Page(
    name="task",
    path="/task",
    title="Task",
    parts=("document",),
    view=view,
    query=("id",),
    in_navigation=False,
    within="tasks",
    every=2.0,
)
